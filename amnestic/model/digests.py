"""Which model a live pipeline is: a hash over its weights and settings."""

import hashlib
import json
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from amnestic.core.errors import NotFinite

WEIGHTS = ("unet", "vae", "text_encoder")
INCIDENTAL = ("architectures", "dtype", "torch_dtype", "transformers_version")


def index_of(pipeline: StableDiffusionPipeline) -> dict[str, Any]:
    """What `model_index.json` of a live pipeline would hold."""
    return {"_class_name": type(pipeline).__name__} | dict(getattr(pipeline, "config", {}))


def settings_of(pipeline: StableDiffusionPipeline) -> str:
    """Everything but weights that decides what is drawn, as JSON; not names, versions or precision."""
    configs = {part: dict(getattr(pipeline, part).config) for part in ("unet", "vae", "scheduler")}
    configs["text_encoder"] = pipeline.text_encoder.config.to_dict()
    plain = {
        part: {k: v for k, v in config.items() if not k.startswith("_") and k not in INCIDENTAL}
        for part, config in configs.items()
    }
    kind = type(pipeline.scheduler).__name__
    return json.dumps([kind, plain, pipeline.tokenizer.get_vocab()], sort_keys=True, default=str)


def digest_of(pipeline: StableDiffusionPipeline) -> str:
    """SHA-256 over all weights and settings; also a look that the weights are finite."""
    total = hashlib.sha256(settings_of(pipeline).encode())
    for part in WEIGHTS:
        for name, tensor in sorted(getattr(pipeline, part).state_dict().items()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NotFinite(
                    f"{part}.{name} holds NaN or infinity in {str(tensor.dtype).removeprefix('torch.')}; "
                    "the weights are damaged or too large for this precision: use --dtype float32, or fetch them again"
                )
            total.update(f"{part}.{name}".encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
