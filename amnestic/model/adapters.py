"""LoRA adapters, put into the weights before anything is measured, so that every layer is a plain one.

An adapter is a stranger's file like the model itself: only safetensors are read, and one that does not fit the model
as a whole is refused rather than applied in part.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from amnestic.core.errors import InputError, NotFinite, UnsupportedModel
from amnestic.core.records import Adapter
from amnestic.model.families import PICKLED
from amnestic.model.quiet import quiet
from amnestic.model.sscd_weights import file_digest

USUAL_NAME = "pytorch_lora_weights.safetensors"
PARTS = ("unet", "text_encoder")
REFUSED_BY = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError, SafetensorError)


def parse_adapter(text: str) -> tuple[str, float]:
    """File or hub id of an adapter, and its scale.

    Args:
        text: ``FILE_OR_REPO`` or ``FILE_OR_REPO:SCALE``.

    Returns:
        The name, and the scale; 1 where none is given.

    Raises:
        InputError: If there is no name, or the scale is not finite.

    Example:
        >>> parse_adapter("style.safetensors:0.8"), parse_adapter("owner/name"), parse_adapter("C:/a.safetensors")
        (('style.safetensors', 0.8), ('owner/name', 1.0), ('C:/a.safetensors', 1.0))
    """
    name, colon, end = text.rpartition(":")
    try:
        scale = float(end) if colon else 1.0
        name = name if colon else text
    except ValueError:
        name, scale = text, 1.0
    if not name.strip() or not math.isfinite(scale):
        raise InputError(f"expected FILE_OR_REPO:SCALE with a finite scale for --lora, got {text}; correct it")
    return name, scale


def adapter_file(name: str) -> Path:
    """The safetensors file of an adapter.

    Args:
        name: A file; a folder or hub id that holds ``pytorch_lora_weights.safetensors``; or ``owner/name/FILE`` for
            another file of a hub id.

    Raises:
        InputError: If it is not there.
        UnsupportedModel: If it is no safetensors file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / USUAL_NAME
    looks_like_path = name.startswith((".", "/", "~")) or len(Path(name).parts) < 2
    if path.suffix.lower() in PICKLED:
        raise UnsupportedModel(
            f"adapter {name} is pickled, and loading it could run code; only safetensors are read, convert it first"
        )
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise UnsupportedModel(f"expected an adapter in a .safetensors file, got {name}; convert it first")
        return path
    if looks_like_path:
        raise InputError(f"adapter {name} does not exist; give a .safetensors file, a folder with one, or a hub id")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    owner, repo, *inside = name.split("/")
    file = "/".join(inside) or USUAL_NAME
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", file))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(
            f"adapter {name} is neither a local file nor in the hub cache, and the hub cannot be reached; check the "
            "path, or go online"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the hub has no {file} in {owner}/{repo} ({first}); give OWNER/NAME/FILE") from error


def fuse_adapters(pipeline: StableDiffusionPipeline, adapters: Sequence[str]) -> tuple[Adapter, ...]:
    """Put adapters into the weights of a pipeline, one after the other.

    Formula: ``W + scale * alpha / rank * B A`` for every layer of an adapter; scale 0 leaves W as it is, bit for bit.

    Args:
        pipeline: Changed in place; its layers are plain ones before and afterwards.
        adapters: Each as `parse_adapter` reads it.

    Returns:
        Which files they were, and with which scale.

    Raises:
        InputError: If one cannot be read, does not fit the model, or the extra ``lora`` is missing.
        UnsupportedModel: If one is no safetensors file, or of a kind that cannot be fused whole.
    """
    named = [parse_adapter(text) for text in adapters]
    if named and find_spec("peft") is None:
        raise InputError("--lora needs the package peft, which is not installed; pip install 'amnestic[lora]'")
    return tuple(_fuse(pipeline, name, scale) for name, scale in named)


def _fuse(pipeline: StableDiffusionPipeline, name: str, scale: float) -> Adapter:
    file = adapter_file(name)
    adapter = Adapter(name=name, scale=scale, sha256=file_digest(file))
    _require_readable(file, name)
    where = {"weight_name": file.name, "use_safetensors": True, "local_files_only": True}
    try:
        with quiet():
            wanted = pipeline.lora_state_dict(str(file.parent), unet_config=pipeline.unet.config, **where)[0]
            pipeline.load_lora_weights(str(file.parent), adapter_name="added", **where)
            _require_whole(pipeline, len(wanted), name)
            if scale:
                with_it = [part for part in PARTS if _added(pipeline, part)]
                pipeline.fuse_lora(components=with_it, lora_scale=scale, adapter_names=["added"])
            pipeline.unload_lora_weights()
    except REFUSED_BY as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"adapter {name} does not fit the model ({first}); give one that was made for it") from error
    return adapter


def _require_readable(file: Path, name: str) -> None:
    """A file that is what its name says, finite, and of a kind that fusing takes as a whole."""
    try:
        with safe_open(file, framework="pt") as content:
            keys = list(content.keys())
            if any("dora_scale" in key for key in keys):
                raise UnsupportedModel(f"adapter {name} is a DoRA, which cannot be fused whole; merge it beforehand")
            for key in keys:
                if not bool(torch.isfinite(content.get_tensor(key)).all()):
                    raise NotFinite(f"adapter {name} holds NaN or infinity in {key}; fetch it again")
    except (OSError, SafetensorError) as error:
        raise InputError(f"adapter {name} is not a readable safetensors file ({error}); fetch it again") from error
    if not keys:
        raise InputError(f"adapter {name} is empty; give one that holds weights")


def _added(pipeline: StableDiffusionPipeline, part: str) -> int:
    """How many matrices of the adapter a component took."""
    names = (n for n, _ in getattr(pipeline, part).named_parameters())
    return sum(".added." in n and "lora_" in n for n in names)


def _require_whole(pipeline: StableDiffusionPipeline, wanted: int, name: str) -> None:
    taken = sum(_added(pipeline, part) for part in PARTS)
    if taken != wanted:
        raise InputError(
            f"adapter {name} has {wanted} matrices, of which {taken} belong to layers of the model; give an adapter "
            "that was made for this model"
        )
