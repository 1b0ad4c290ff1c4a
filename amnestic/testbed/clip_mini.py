"""`clip-mini`: a small open_clip model of our own config that judges alignment with captions.

It is trained apart from the pipeline's text encoder, so the judge shares no weights with the judged.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
from jaxtyping import Float, Int, UInt8
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import Tensor, nn

from amnestic.testbed.autoencoder import to_float

CONTEXT = 32
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 24, "patch_size": None},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 3},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
}


def new_clip() -> nn.Module:
    """An untrained clip-mini."""
    model: nn.Module = open_clip.CLIP(**CONFIG["model_cfg"])
    return model


def tokens_of(captions: Sequence[str]) -> Int[Tensor, "N L"]:
    """Token ids by open_clip's own tokenizer."""
    ids: Tensor = open_clip.SimpleTokenizer(context_length=CONTEXT)(list(captions))
    return ids


def clip_loss(model: nn.Module, images: UInt8[Tensor, "N 3 H W"], tokens: Int[Tensor, "N L"]) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of one batch (Radford et al., 2021), as open_clip computes it."""
    seen, read, scale = model(to_float(images), tokens)[:3]
    loss: Tensor = ClipLoss()(seen.float(), read.float(), scale.float())
    return loss


def export_clip(model: nn.Module, folder: Path) -> None:
    """Write the model so that `open_clip` loads it as ``local-dir:FOLDER``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "open_clip_model.safetensors")
