"""Could somebody without the originals tell which images are memorized? An extraction attack on a finished audit."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amnestic.attacks.extraction import Candidate, CliqueExtraction, extraction_outcome
from amnestic.core.errors import InputError
from amnestic.core.records import MethodSpec, Sampling, Unit, digest, plain
from amnestic.core.store import Record, Run
from amnestic.parallel import team
from amnestic.sources.images import open_image
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.scores import described, scored, threshold_of
from amnestic.stages.sealing import seal_run


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Similarity of every image of a run with the works that were trained on.

    Attributes:
        similarity: ``(P, S, W)``.
        works: The W works.
        own: Work of each prompt that has one.
        threshold: A copy scores above it.
    """

    similarity: Tensor
    works: tuple[str, ...]
    own: Mapping[str, str]
    threshold: float


def extract(folder: Path, method: CliqueExtraction, *, progress: Progress = silent) -> Record | None:
    """Run the attack on the images of a finished audit, and judge its claims by the audit's own descriptor.

    Args:
        folder: The audit; its number of seeds is the attacker's budget per prompt.
        method: The attack.
        progress: Told how many prompts are done.

    Returns:
        The record: claims, works recovered, precision and recall with intervals, passes of the U-Net. `None` in
        processes other than the main one.

    Raises:
        InputError: If the audit drew too few images per prompt, or kept only latents.
        StoreError: If it has not finished.
    """
    return team("cpu").on_main(lambda: _extract(folder, method, progress))


def _extract(folder: Path, method: CliqueExtraction, progress: Progress) -> Record:
    run = Run.open(folder)
    made_by = MethodSpec(name="clique-extraction", parameters=plain(method))
    judge = _judge(run)
    parents = (run.manifest()["digest"], scored(run).id, digest(judge.works))
    record = run.load("extract", made_by, parents)
    if record is not None:
        seal_run(run)
        return record
    started, settings = time.monotonic(), run.manifest()["settings"]
    prompts = list(dict.fromkeys(row["prompt_id"] for row in run.read_table("samples")))
    candidates: dict[str, Candidate] = {}
    similarity: dict[str, Tensor] = {}
    for p, name in enumerate(prompts):
        candidates[name] = found = method([_opened(run, Unit(name, seed)) for seed in settings["seeds"]])
        if found.representative is not None:
            similarity[name] = judge.similarity[p, found.representative]
        progress("compare generations", p + 1, len(prompts))
    outcome = extraction_outcome(
        candidates, similarity, works=judge.works, own=judge.own, threshold=judge.threshold
    )  # fmt: skip
    data = plain(outcome) | {
        "prompts": len(prompts), "seeds": len(settings["seeds"]), "works": len(judge.works),
        "passes": outcome.images * Sampling(**settings["sampling"]).rows_per_image,
        "claims": {name: plain(c) for name, c in candidates.items() if c.extracted},
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    record = Record(stage="extract", made_by=made_by, parents=parents, data=data, tensors={})
    run.save(record)
    seal_run(run)
    return record


def _judge(run: Run) -> _Judge:
    generated, originals, place = described(run)
    samples = {row["prompt_id"]: row for row in run.read_table("samples")}
    trained = {row["prompt_id"]: row["work"] for row in run.read_table("matches")
               if row["label"] not in ("heldout", "base") and row["sscd_paired"] is not None}  # fmt: skip
    first = {work: place[samples[prompt]["original"]] for prompt, work in reversed(trained.items())}
    works = tuple(dict.fromkeys(trained.values()))
    return _Judge(
        similarity=generated @ originals[[first[w] for w in works]].T, works=works, own=trained,
        threshold=threshold_of(run),
    )  # fmt: skip


def _opened(run: Run, unit: Unit) -> NDArray[np.uint8]:
    file = run.image_file(unit)
    if not file.exists():
        raise InputError(f"{run.folder} kept no images, which this attack compares; audit again with --keep images")
    return open_image(file)
