"""The originals of known images: as the audit compared with them, and as a model encodes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amnestic.core.attacks import Goal
from amnestic.core.errors import InputError
from amnestic.core.protocols import Encoder
from amnestic.core.records import Prompt
from amnestic.core.store import Run
from amnestic.measures.pixels import match_size
from amnestic.model.target import PipelineTarget
from amnestic.sources.references import named_references, reference_id
from amnestic.stages.judges import judge_of
from amnestic.stages.scores import described


class Told(Protocol):
    """A request that names the descriptor which judged an audit."""

    @property
    def descriptor(self) -> str:
        """As ``audit`` was told."""
        ...

    @property
    def sscd_weights(self) -> Path | None:
        """File of its weights, likewise."""
        ...


def judged_by(
    run: Run, request: Told, target: PipelineTarget, prompts: Sequence[Prompt]
) -> tuple[Encoder, dict[str, Tensor]]:
    """The descriptor that judged the audit, and its vectors of the originals by prompt id."""
    encoder = judge_of(
        run, target, descriptor=request.descriptor, sscd_weights=request.sscd_weights, device=target.device
    )
    _, vectors, place = described(run)
    return encoder, {p.id: vectors[place[p.image]] for p in prompts}


def pictures_of(run: Run, folder: Path, prompts: Sequence[Prompt], side: int) -> dict[str, Any]:
    """Originals by prompt id, as 8-bit pictures of the model's size: the very files that the audit compared with.

    Args:
        run: The audit, which wrote down what it read.
        folder: Where they are, or a folder below the one from which the prompt list's paths count.
        prompts: Whose originals.
        side: In pixels.

    Returns:
        Pictures ``(H, W, 3)``.

    Raises:
        InputError: If one is missing, cannot be read, or is another picture than the audit's.
    """
    references = named_references(folder, [p.image for p in prompts])
    usable = {r.id: r for r in references.usable()}
    by_prompt = {p.id: usable.get(reference_id(p.image)) for p in prompts}
    audited = {row["id"]: row["sha256"] for row in _referenced(run)}
    unfit = [p.image for p in prompts if (r := by_prompt[p.id]) is None or audited.get(r.id, r.sha256) != r.sha256]
    if unfit:
        raise InputError(
            f"expected the originals that the audit compared with in {folder}; {len(unfit)} are missing, unreadable or "
            f"changed, the first is {unfit[0]}; give the folder that the audit was given with --references"
        )
    return {name: match_size(references.load(r), (side, side)) for name, r in by_prompt.items() if r is not None}


def _referenced(run: Run) -> list[dict[str, Any]]:
    """What an audit wrote down about its references; nothing for runs that wrote nothing."""
    file = run.folder / "references.json"
    return json.loads(file.read_text()) if file.is_file() else []


def goals_of(target: PipelineTarget, prompts: Sequence[Prompt], pictures: Mapping[str, Any]) -> tuple[Goal, ...]:
    """Known images as a model encodes them.

    Args:
        target: The model; each has its own autoencoder.
        prompts: N prompts.
        pictures: From `pictures_of`.

    Returns:
        N goals.
    """
    latents = [target.latents_of([pictures[p.id]])[0].float().cpu() for p in prompts]
    return tuple(
        Goal(prompt=p, original=z, image=hash_of(pictures[p.id])) for p, z in zip(prompts, latents, strict=True)
    )


def hash_of(picture: NDArray[np.uint8]) -> str:
    """SHA-256 of a picture's pixels."""
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
