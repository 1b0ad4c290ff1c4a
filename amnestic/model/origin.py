"""Where a model comes from: the files it is read from, and the classes that attend."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from amnestic.model.digests import WEIGHTS
from amnestic.model.sscd_weights import file_digest

READ = (*WEIGHTS, "scheduler", "tokenizer")
WEIGHT_SUFFIXES = (".safetensors", ".bin")


def model_files(
    model: str, *, revision: str | None = None, variant: str | None = None, allow_pickle: bool = False,
    config: str | Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """SHA-256 of every file that a model is read from; those of adapters are settings of the run.

    Args:
        model: Hub id, diffusers folder or checkpoint in one file.
        revision: Hub revision.
        variant: Weight variant such as ``fp16``.
        allow_pickle: Whether weights that must be unpickled may have been read.
        config: Folder with the settings of a checkpoint in one file.

    Returns:
        ``files`` by name inside the model, and for a hub model the ``commit`` of its snapshot; no files where none can
        be found.
    """
    place, commit = Path(model).expanduser(), None
    if place.is_file():
        settings = Path(config).expanduser() if config else None
        beside = _digests(settings, _settings_of(settings), "config/") if settings else {}
        return {"files": {place.name: file_digest(place)} | beside, "commit": None}
    if not place.is_dir():
        try:
            index = hf_hub_download(model, "model_index.json", revision=revision, local_files_only=True)
        except (HfHubHTTPError, OSError, ValueError):
            return {"files": {}, "commit": None}
        place = Path(index).parent
        commit = place.name
    weights = [file for part in WEIGHTS for file in _weights_of(place / part, variant, allow_pickle=allow_pickle)]
    return {"files": _digests(place, [*_settings_of(place), *weights]), "commit": commit}


def attention_of(pipeline: StableDiffusionPipeline) -> list[str]:
    """Names of the classes that compute attention in the U-Net.

    Args:
        pipeline: As it draws.
    """
    return sorted({type(processor).__name__ for processor in pipeline.unet.attn_processors.values()})


def _digests(folder: Path, files: Iterable[Path], prefix: str = "") -> dict[str, str]:
    return {prefix + file.relative_to(folder).as_posix(): file_digest(file) for file in sorted(files)}


def _settings_of(folder: Path) -> list[Path]:
    """Index, configs and vocabularies: what is read of every component besides weights."""
    found = [folder / "model_index.json", *(file for part in READ for file in (folder / part).glob("*"))]
    return [
        f for f in found if f.is_file() and not f.name.startswith(".") and f.suffix not in WEIGHT_SUFFIXES
    ]  # fmt: skip


def _weights_of(part: Path, variant: str | None, *, allow_pickle: bool) -> list[Path]:
    """The weights of a component that are loaded: safetensors before pickles, the variant before the usual ones."""
    weights = [file for file in part.glob("*") if file.suffix in WEIGHT_SUFFIXES and not file.name.startswith(".")]
    safe = [file for file in weights if file.suffix == ".safetensors"]
    weights = safe or (weights if allow_pickle else [])
    own = [file for file in weights if variant and f".{variant}" in file.name]
    usual = [file for file in weights if "." not in file.stem]
    return own or usual or weights
