"""What every test process needs set before torch, transformers or gradio are imported."""

import os

from hypothesis import settings

# One thread a worker, since the default is two workers on two cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may reach for the network: what they need is built from configs or stands in assets/.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

# A slow machine is no counter-example, and a failure has to come back on the next run.
settings.register_profile("project", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("project")
