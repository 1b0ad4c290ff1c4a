"""Replication: how close generated images come to references, and how often too close.

The memorization rate (MR) of a set of works is the share whose *maximum* paired similarity over
exactly S seeds exceeds the threshold. The unit of every rate is the work. Where a list has several
prompts for one work, the first of them decides, so that no work has more chances than another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.records import Prompt, Rate, Threshold
from amnestic.measures.aggregate import median_mad
from amnestic.measures.calibration import calibrate_threshold
from amnestic.measures.intervals import cluster_mean, cluster_rate, rate
from amnestic.measures.similarity import diversity, nearest, paired

CONTROLS = ("heldout", "base")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Descriptors of everything that is compared.

    Attributes:
        prompts: P prompts; those with an `image` have an original among the references.
        seeds: S seeds.
        generated: Unit vectors ``(P, S, D)``.
        references: Unit vectors ``(R, D)``.
        original: For each prompt the row of its original in `references`, or -1.
        works: For each reference the work it belongs to.
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    generated: Float[Tensor, "P S D"]
    references: Float[Tensor, "R D"]
    original: tuple[int, ...]
    works: tuple[str, ...]

    def work_of(self, row: int) -> str:
        """Work of a prompt: that of its original, or the prompt itself."""
        index = self.original[row]
        return self.works[index] if index >= 0 else self.prompts[row].work or self.prompts[row].id


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """Scores of every image.

    Attributes:
        paired: Similarity with the prompt's own original ``(P, S)``; NaN without one.
        nearest: Highest similarity with any reference ``(P, S)``.
        nearest_row: Which reference that is ``(P, S)``.
        null: What replication is judged by, on pairs that are none: for each prompt the highest
            similarity over its seeds with one original of another work ``(M,)``.
        diversity: D_SSCD of each prompt ``(P,)``.
    """

    paired: Float[Tensor, "P S"]
    nearest: Float[Tensor, "P S"]
    nearest_row: Tensor
    null: Float[Tensor, "M"]
    diversity: Float[Tensor, "P"]


def compare(embedded: Embedded) -> Similarities:
    """Similarities of all images with their originals and with the whole reference set.

    Args:
        embedded: Descriptors; all of one descriptor.

    Returns:
        Cosines in [-1, 1], comparable only within one descriptor and preprocessing.
    """
    n_prompts, n_seeds, width = embedded.generated.shape
    index = torch.tensor(embedded.original)
    pair = torch.full((n_prompts, n_seeds), float("nan"))
    if bool((index >= 0).any()):
        rows = (index >= 0).nonzero().flatten()
        pair[rows] = paired(embedded.generated[rows], embedded.references[index[rows]])
    flat = embedded.generated.reshape(-1, width)
    best, row = nearest(flat, embedded.references)
    return Similarities(
        paired=pair,
        nearest=best[:, 0].reshape(n_prompts, n_seeds),
        nearest_row=row[:, 0].reshape(n_prompts, n_seeds),
        null=_null_scores(embedded),
        diversity=diversity(embedded.generated),
    )


def _null_scores(embedded: Embedded) -> Tensor:
    """All images of each prompt against one original of another work, and the highest score of these.

    Replication is judged by the highest of S scores with one original, so the null is that, too. Originals are taken
    in turn, so that the pairs do not depend on the scores.
    """
    pairs = [(p, _foreign(embedded, p)) for p in range(len(embedded.prompts))]
    rows, originals = [p for p, r in pairs if r >= 0], [r for _, r in pairs if r >= 0]
    return paired(embedded.generated[rows], embedded.references[originals]).amax(1) if rows else torch.empty(0)


def _foreign(embedded: Embedded, row: int) -> int:
    """A reference of another work than the prompt's, or -1."""
    own, n = embedded.work_of(row), len(embedded.works)
    turns = ((row * 7919 + step) % n for step in range(n))
    return next((r for r in turns if embedded.works[r] != own), -1)


def calibrated(similarities: Similarities, *, false_positive_rate: float) -> Threshold | None:
    """A threshold that at most a declared share of works exceeds without being replicated.

    Args:
        similarities: Whose null scores are used; each is a maximum over the seeds, as for a work.
        false_positive_rate: Declared share of works, in (0, 1).

    Returns:
        A threshold for as many seeds and the same descriptor, or `None` with fewer than
        ``1 / false_positive_rate`` null scores.
    """
    if len(similarities.null) < math.ceil(1 / false_positive_rate):
        return None
    return calibrate_threshold(similarities.null.numpy(), false_positive_rate=false_positive_rate)


def first_rows(embedded: Embedded, rows: Sequence[int]) -> list[int]:
    """The first of the rows for each work: the prompt that decides."""
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(embedded.work_of(row), row)
    return list(first.values())


def work_hits(embedded: Embedded, scores: Tensor, threshold: float, rows: Sequence[int]) -> dict[str, bool]:
    """For each work among `rows`: did any of the S images of its first prompt score above the threshold?"""
    return {embedded.work_of(r): bool(scores[r].max() > threshold) for r in first_rows(embedded, rows)}


def hit_by_any_prompt(embedded: Embedded, scores: Tensor, threshold: float, rows: Sequence[int]) -> int:
    """Number of works among `rows` that an image of any of their prompts shows; no rate, since their number varies."""
    return len({embedded.work_of(r) for r in rows if bool(scores[r].max() > threshold)})


def rate_of(hits: Mapping[str, bool]) -> Rate:
    """Share of works that were hit, with its intervals."""
    return rate(sum(hits.values()), len(hits))


def rows_with(embedded: Embedded, *labels: str) -> list[int]:
    """Rows of prompts that carry one of the labels."""
    return [row for row, p in enumerate(embedded.prompts) if p.label in labels]


def audited_rows(embedded: Embedded) -> list[int]:
    """Rows of prompts whose replication is in question: with an original, and no control."""
    return [r for r, p in enumerate(embedded.prompts) if p.label not in CONTROLS and embedded.original[r] >= 0]


def deciding_rows(embedded: Embedded) -> list[int]:
    """The audited row of each work that decides whether it counts as replicated: its first."""
    return first_rows(embedded, audited_rows(embedded))


def ladder(embedded: Embedded, scores: Tensor, threshold: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Mean similarity and leak rate on each rung of a multiplicity ladder, both over the first prompt of each work.

    Args:
        embedded: Prompts with rungs; works without one are left out.
        scores: Paired similarities ``(P, S)``.
        threshold: Decides replication.
        rng: For the cluster bootstrap of the mean.

    Returns:
        One entry per rung, lowest first; ``lower`` and ``upper`` of the mean are `None` with a single work.
    """
    verbatim = [r for r in deciding_rows(embedded) if embedded.prompts[r].label != "TM"]
    by_rung: dict[int, list[int]] = {}
    for row in verbatim:
        rung = embedded.prompts[row].rung
        if rung is not None and rung >= 0:
            by_rung.setdefault(rung, []).append(row)
    steps = []
    for rung, rows in sorted(by_rung.items()):
        clusters = [embedded.work_of(r) for r in rows for _ in embedded.seeds]
        measured = cluster_mean(scores[rows].flatten().tolist(), clusters, rng=rng)
        mean, lower, upper = (None if math.isnan(value) else value for value in measured)
        hits = work_hits(embedded, scores, threshold, rows)
        steps.append(
            {"rung": rung, "works": len(hits), "mean_score": mean, "lower": lower, "upper": upper,
             "leak_rate": rate_of(hits)}
        )  # fmt: skip
    return steps


def controls(
    embedded: Embedded, nearest_scores: Tensor, threshold: float, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """The same question asked of prompts that cannot leak: held-out works and base prompts.

    Against the *whole* reference set, since a control has no original that was trained on. As for works, the first
    prompt of a held-out work decides; the share of images and the highest score are those of all prompts.

    Returns:
        For each control: number of works, share of works hit, share of images hit, highest score.
    """
    found = {}
    for label in CONTROLS:
        rows = rows_with(embedded, label)
        if not rows:
            continue
        above = (nearest_scores[rows] > threshold).flatten().tolist()
        clusters = [embedded.work_of(r) for r in rows for _ in embedded.seeds]
        found[label] = {
            "works": len(set(clusters)),
            "leak_rate": rate_of(work_hits(embedded, nearest_scores, threshold, rows)),
            "images": cluster_rate(above, clusters, rng=rng),
            "max_score": float(nearest_scores[rows].max()),
        }
    return found


def aggregated(name: str, per_prompt: Tensor, unit: str) -> dict[str, Any]:
    """Median and median absolute deviation over prompts, the convention of NeMo and DoRI, and the mean."""
    kept = per_prompt[~per_prompt.isnan()]
    if not len(kept):
        return {"name": name, "median": None, "mad": None, "mean": None, "n": 0, "unit": unit}
    median, mad = median_mad(kept)
    return {"name": name, "median": median, "mad": mad, "mean": float(kept.mean()), "n": len(kept), "unit": unit}
