"""Turns a hub id or a folder into a diffusers pipeline, refusing what would run code."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from amnestic.core.errors import InputError, UnsupportedModel
from amnestic.model.families import PICKLED, check_family, read_index, refuse_foreign_code, refuse_pickle

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FEWEST_TOKENS = 256  # one for each byte


def load_pipeline(
    model: str, *, revision: str | None, variant: str | None, dtype: torch.dtype, allow_pickle: bool
) -> StableDiffusionPipeline:
    """Load a pipeline after its family and weight format have been checked.

    Args:
        model: Hub id or local folder.
        revision: Hub revision (branch, tag or commit).
        variant: Weight variant such as ``fp16``.
        dtype: Precision to compute in.
        allow_pickle: Whether weights that must be unpickled may be loaded.

    Returns:
        The pipeline without safety checker, so that the audit sees what the weights produce.

    Raises:
        InputError: If the model cannot be found or read.
        UnsupportedModel: If its family or weight format is refused.
    """
    folder = Path(model).expanduser()
    if folder.is_file() or (folder.suffix in (*PICKLED, ".safetensors") and not folder.is_dir()):
        raise UnsupportedModel(f"expected a diffusers folder or hub id, got the single file {model}; convert it first")
    index = read_index(folder) if folder.is_dir() else _hub_index(model, revision)
    check_family(index)
    refuse_foreign_code(index)
    if folder.is_dir() and not allow_pickle:
        refuse_pickle(folder, index)
    try:
        with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither progress bars nor remarks about configs while weights are read; afterwards as before."""
    logger = logging.getLogger("diffusers")
    level, bars = logger.level, [m for m in (diffusers_logging, transformers_logging) if m.is_progress_bar_enabled()]
    logger.setLevel(logging.ERROR)
    for module in bars:
        module.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        for module in bars:
            module.enable_progress_bar()


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
