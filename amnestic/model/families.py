"""Which model families are supported, decided from configs before any weight is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amnestic.core.errors import InputError, UnsupportedModel

SUPPORTED = "Stable Diffusion 1.x and 2.x (a StableDiffusionPipeline with UNet2DConditionModel and CLIPTextModel)"
LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
COMPONENTS = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def check_family(index: Mapping[str, Any]) -> str:
    """Name of the family of a pipeline, from its `model_index.json`.

    Args:
        index: Content of `model_index.json`.

    Returns:
        ``"stable-diffusion"``.

    Raises:
        UnsupportedModel: If it is another family; the sentence names what is supported.
    """
    name = index.get("_class_name", "an unnamed pipeline")
    if name != "StableDiffusionPipeline":
        raise UnsupportedModel(f"expected {SUPPORTED}, got {name}; other families are not supported yet")
    for part, wanted in COMPONENTS.items():
        _, came = _origin(index.get(part))
        if came not in (wanted, wanted + "Fast"):
            raise UnsupportedModel(f"expected {SUPPORTED}, but its {part} is {came}; it cannot be audited yet")
    return "stable-diffusion"


def refuse_foreign_code(index: Mapping[str, Any]) -> None:
    """Refuse a pipeline whose components come from anywhere but diffusers and transformers.

    Args:
        index: Content of `model_index.json`.

    Raises:
        UnsupportedModel: If loading a component would import a module that the model names itself.
    """
    for part, entry in index.items():
        library, _ = _origin(entry)
        if isinstance(entry, (list, tuple)) and library not in LIBRARIES:
            raise UnsupportedModel(
                f"expected components of diffusers and transformers, but {part} comes from {library}, "
                "which would run code named by the model; use a model without code of its own"
            )


def _origin(entry: object) -> tuple[object, object]:
    """Library and class of a component; two times `None` when the entry is not such a pair."""
    library, name = entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (None, None)
    return library, name


def read_index(folder: Path) -> dict[str, Any]:
    """The `model_index.json` of a local diffusers folder.

    Raises:
        InputError: If the folder is not a diffusers pipeline, or its index is damaged.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise InputError(
            f"expected a diffusers folder with model_index.json, found none in {folder}; "
            "give the folder that holds unet/, vae/ and text_encoder/, or a hub id"
        )
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); restore the model's files") from error
    if not isinstance(content, dict):
        raise InputError(f"expected an object in {file}, found a {type(content).__name__}; restore the model's files")
    return content


def refuse_pickle(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a folder whose weights can only be read by unpickling, which runs code.

    Raises:
        UnsupportedModel: If a component has pickled weights and no safetensors.
    """
    for part in ("unet", "vae", "text_encoder"):
        files = list((folder / part).glob("*")) if index.get(part) else []
        pickled = [f.name for f in files if f.suffix in PICKLED]
        if pickled and not any(f.suffix == ".safetensors" for f in files):
            raise UnsupportedModel(
                f"{folder / part} holds only pickled weights ({pickled[0]}), which can run code when loaded; "
                "convert them to safetensors, or add --allow-pickle if you trust their origin"
            )
