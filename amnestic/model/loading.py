"""Turns a hub id or a folder into a diffusers pipeline, refusing what would run code."""

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError

from amnestic.core.errors import InputError
from amnestic.model.families import check_family, read_index, refuse_foreign_code, refuse_pickle
from amnestic.model.quiet import quiet
from amnestic.model.single_file import is_single_file, load_single_file

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FEWEST_TOKENS = 256  # one for each byte


def load_pipeline(
    model: str,
    *,
    revision: str | None,
    variant: str | None,
    dtype: torch.dtype,
    allow_pickle: bool,
    config: Path | None = None,
) -> StableDiffusionPipeline:
    """Load a pipeline after its family and weight format have been checked.

    Args:
        model: Hub id, local folder, or checkpoint in one file.
        revision: Hub revision (branch, tag or commit).
        variant: Weight variant such as ``fp16``.
        dtype: Precision to compute in.
        allow_pickle: Whether weights that must be unpickled may be loaded.
        config: Diffusers folder with the settings of a checkpoint in one file.

    Returns:
        The pipeline without safety checker, so that the audit sees what the weights produce.

    Raises:
        InputError: If the model cannot be found or read.
        UnsupportedModel: If its family or weight format is refused.
    """
    if is_single_file(model):
        pipeline = load_single_file(model, config=config, dtype=dtype, allow_pickle=allow_pickle)
        _check_tokenizer(model, pipeline)
        return pipeline
    if config is not None:
        raise InputError(f"--model-config is for a checkpoint in one file, but {model} is none; leave it out")
    folder = Path(model).expanduser()
    index = read_index(folder) if folder.is_dir() else _hub_index(model, revision)
    check_family(index)
    refuse_foreign_code(index)
    if folder.is_dir() and not allow_pickle:
        refuse_pickle(folder, index)
    try:
        with quiet():
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder) if folder.is_dir() else model,
                revision=revision,
                variant=variant,
                dtype=dtype,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                use_safetensors=None if allow_pickle else True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{model} could not be loaded as a diffusers pipeline ({first}); check its files") from error
    _check_tokenizer(model, pipeline)
    return pipeline


def _check_tokenizer(model: str, pipeline: StableDiffusionPipeline) -> None:
    """Missing tokenizer files give an empty tokenizer, not an error: every prompt would read the same."""
    n_known, n_embedded = len(pipeline.tokenizer), pipeline.text_encoder.config.vocab_size
    if n_known < FEWEST_TOKENS or n_known > n_embedded:
        raise InputError(
            f"expected a tokenizer of {FEWEST_TOKENS} to {n_embedded} tokens in {model}, got {n_known}; "
            "restore the files of its tokenizer"
        )


def _hub_index(model: str, revision: str | None) -> dict[str, Any]:
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") != 1 or (os.sep == "\\" and "\\" in model)
    if looks_like_path:
        raise InputError(f"expected a model folder or a hub id like owner/name, found nothing at {model}")
    try:
        file = hf_hub_download(model, "model_index.json", revision=revision)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputError(
            f"{model} is neither a local folder nor in the hub cache, and the hub cannot be reached; "
            "check the path, or go online"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the hub has no usable pipeline {model} ({first}); check id and revision") from error
    return read_index(Path(file).parent)
