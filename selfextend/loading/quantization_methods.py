"""The methods by which checkpoints are quantized: what each needs, and which are unpacked. Needs no torch."""

from importlib.util import find_spec

# What computes with these is code from the hub, through package `kernels`; without it they are unpacked.
_BY_KERNELS = frozenset({"fp8", "mxfp8", "mxfp4"})
# Its package unpacks them at the first pass through the model, whatever was kept until then.
_ALWAYS_UNPACKED = "compressed-tensors"
# The module that a method needs, and what to install for it, where transformers' own message is misleading or long.
_PACKAGES = {
    "awq": ("gptqmodel", "gptqmodel"),
    "gptq": ("gptqmodel", "optimum gptqmodel"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "torchao": ("torchao", "torchao"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "aqlm": ("aqlm", "aqlm"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum.quanto", "optimum-quanto"),
    "auto-round": ("auto_round", "auto-round"),
}


def is_unpacked(method: str) -> bool:
    """Whether this machine turns weights of this method into plain numbers when it loads them."""
    return method == _ALWAYS_UNPACKED or (method in _BY_KERNELS and find_spec("kernels") is None)


def missing_packages(method: str) -> str:
    """What to install for this method, as pip takes it; "" where nothing is known to be missing."""
    module, install = _PACKAGES.get(method, ("", ""))
    return install if module and not _is_installed(module) else ""


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        return False
