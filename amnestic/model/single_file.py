"""Checkpoints in one file, as Stable Diffusion was first published and is still shared."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open

from amnestic.core.errors import InputError, UnsupportedModel
from amnestic.model.families import PICKLED, SUPPORTED, check_family, read_index, refuse_foreign_code
from amnestic.model.quiet import quiet

SUFFIX = ".safetensors"
PARTS = {
    "model.diffusion_model.": "U-Net",
    "first_stage_model.": "autoencoder",
    "cond_stage_model.": "text encoder",
}
LATENT_CHANNELS = "model.diffusion_model.input_blocks.0.0.weight"
DECODED_CHANNELS = "first_stage_model.post_quant_conv.weight"


def is_single_file(model: str) -> bool:
    """Whether a model is named as one file of weights, whether or not it is there."""
    path = Path(model).expanduser()
    return path.is_file() or (path.suffix.lower() in (*PICKLED, SUFFIX) and not path.is_dir())


def load_single_file(
    model: str, *, config: Path | None, dtype: torch.dtype, allow_pickle: bool
) -> StableDiffusionPipeline:
    """Load a pipeline from a checkpoint of Stable Diffusion 1.x or 2.x in its original layout.

    Such a file holds weights and no settings. They come from a diffusers folder, whose weights are not looked at, or
    are those of the published model that the file looks like, from the hub or its cache.

    Args:
        model: A ``.safetensors`` file; ``.ckpt`` only with `allow_pickle`.
        config: A diffusers folder with the settings and the tokenizer, or `None`.
        dtype: Precision to compute in.
        allow_pickle: Whether a file that must be unpickled may be loaded.

    Returns:
        The pipeline without safety checker.

    Raises:
        InputError: If the file cannot be found or read, or the settings cannot.
        UnsupportedModel: If its family or format is refused.
    """
    file = Path(model).expanduser()
    if not file.is_file():
        raise InputError(f"expected a checkpoint, found nothing at {model}; check the path")
    _require_format(file, model, allow_pickle)
    if config is not None:
        index = read_index(config)
        check_family(index)
        refuse_foreign_code(index)
    try:
        with quiet():
            return StableDiffusionPipeline.from_single_file(
                str(file),
                config=None if config is None else str(config),
                local_files_only=config is not None,
                torch_dtype=dtype,
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "check both" if config is not None else "give --model-config with a diffusers folder of its family"
        raise InputError(f"{model} could not be loaded as one checkpoint ({first}); {remedy}") from error


def _require_format(file: Path, model: str, allow_pickle: bool) -> None:
    if file.suffix.lower() in PICKLED:
        if not allow_pickle:
            raise UnsupportedModel(
                f"{model} is a pickled checkpoint, which can run code when loaded; convert it to safetensors, or add "
                "--allow-pickle if you trust its origin"
            )
        return
    if file.suffix.lower() != SUFFIX:
        raise UnsupportedModel(f"expected a diffusers folder, a hub id or a .safetensors checkpoint, got {model}")
    try:
        with safe_open(file, framework="pt") as content:
            shapes = {key: tuple(content.get_slice(key).get_shape()) for key in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{model} is not a readable safetensors file ({error}); fetch it again") from error
    _require_supported(shapes, model)


def _require_supported(shapes: dict[str, tuple[int, ...]], model: str) -> None:
    """All three parts, since diffusers would take a missing one from elsewhere and audit a model of nobody."""
    missing = [part for start, part in PARTS.items() if not any(key.startswith(start) for key in shapes)]
    if missing:
        raise UnsupportedModel(
            f"expected a whole checkpoint of {SUPPORTED} in its original layout, but {model} holds no "
            f"{' and no '.join(missing)}; give a whole one, or a diffusers folder"
        )
    taken, decoded = shapes.get(LATENT_CHANNELS, ()), shapes.get(DECODED_CHANNELS, ())
    if len(taken) == 4 and decoded and taken[1] != decoded[0]:
        raise UnsupportedModel(
            f"expected a U-Net that takes {decoded[0]} latent channels, but that of {model} takes {taken[1]}, as for "
            "inpainting or depth; it cannot be audited yet"
        )
