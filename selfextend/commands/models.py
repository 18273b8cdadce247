"""`models`: the models that are on this machine already, and whether they fit into its memory."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from selfextend.loading.hardware import available_bytes, resolve_device
from selfextend.loading.local import local_models, usual_stores
from selfextend.loading.memory import local_bytes
from selfextend.loading.sizes import readable


def run_models(arguments: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device(arguments.device)
    free = available_bytes(device)
    models = []
    for model in local_models(usual_stores(arguments.models_folder)):
        needed = local_bytes(model, device, free)
        models.append(asdict(model) | {"files": str(model.files), "memory_bytes": needed, "fits": needed <= free})
    return {"device": str(device), "free_bytes": free, "models": models}


def show_models(result: dict[str, Any]) -> None:
    models = result["models"]
    if not models:
        print("No models were found on this machine. Name a folder with --models-folder, or load one from the hub.")
        return
    width = max(len(model["label"]) for model in models)
    for model in models:
        window = f"{model['trained_window']:,}" if model["trained_window"] else "?"
        fits = "fits" if model["fits"] else "too big"
        print(
            f"{model['label']:<{width}}  {model['quantization']:<9} {readable(model['file_bytes']):>10}  "
            f"{window:>9} tokens  about {readable(model['memory_bytes'])} in memory: {fits:<8} {model['place']}"
        )
        print(f"{'':<{width}}  --model {model['name']}")
    print(f"{readable(result['free_bytes'])} are free on {result['device']}.")
