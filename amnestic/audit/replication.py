"""Replication: how close generated images come to references, and how often too close.

The memorization rate (MR) of a set of works is the share whose *maximum* paired similarity over
exactly S seeds exceeds the threshold. The unit of every rate is the work.
"""

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
        null: Similarities of images with the nearest reference of a work that is not theirs, one
            per image, from prompts of controls where there are any.
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
    """Each image against one original drawn from the other works, without replacement of order.

    Pairs are formed by rotating the list of originals, so that every original serves equally often
    and the pairs do not depend on the scores.
    """
    works = [embedded.work_of(p) for p in range(len(embedded.prompts))]
    scores = []
    for p, work in enumerate(works):
        others = [r for r, w in enumerate(embedded.works) if w != work]
        if others:
            chosen = torch.tensor([others[(p * 7919 + s * 104729) % len(others)] for s in range(len(embedded.seeds))])
            scores.append((embedded.generated[p] * embedded.references[chosen]).sum(-1))
    return torch.cat(scores) if scores else torch.empty(0)


def calibrated(similarities: Similarities, *, false_positive_rate: float) -> Threshold | None:
    """A threshold from null pairs, or `None` with too few of them."""
    if len(similarities.null) < 1 / false_positive_rate:
        return None
    return calibrate_threshold(similarities.null.numpy(), false_positive_rate=false_positive_rate)


def work_hits(embedded: Embedded, scores: Tensor, threshold: float, rows: Sequence[int]) -> dict[str, bool]:
    """For each work among `rows`: did any of its images score above the threshold?"""
    hits: dict[str, bool] = {}
    for row in rows:
        work = embedded.work_of(row)
        hits[work] = hits.get(work, False) or bool(scores[row].max() > threshold)
    return hits


def rate_of(hits: Mapping[str, bool]) -> Rate:
    """Share of works that were hit, with its intervals."""
    return rate(sum(hits.values()), len(hits))


def rows_with(embedded: Embedded, *labels: str) -> list[int]:
    """Rows of prompts that carry one of the labels."""
    return [row for row, p in enumerate(embedded.prompts) if p.label in labels]


def audited_rows(embedded: Embedded) -> list[int]:
    """Rows of prompts whose replication is in question: with an original, and no control."""
    return [r for r, p in enumerate(embedded.prompts) if p.label not in CONTROLS and embedded.original[r] >= 0]


def ladder(embedded: Embedded, scores: Tensor, threshold: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Mean similarity and leak rate on each rung of a multiplicity ladder.

    Args:
        embedded: Prompts with rungs; those without one are left out.
        scores: Paired similarities ``(P, S)``.
        threshold: Decides replication.
        rng: For the cluster bootstrap of the mean.

    Returns:
        One entry per rung, lowest first.
    """
    verbatim = [r for r in audited_rows(embedded) if embedded.prompts[r].label != "TM"]
    by_rung: dict[int, list[int]] = {}
    for row in verbatim:
        rung = embedded.prompts[row].rung
        if rung is not None and rung >= 0:
            by_rung.setdefault(rung, []).append(row)
    steps = []
    for rung, rows in sorted(by_rung.items()):
        clusters = [embedded.work_of(r) for r in rows for _ in embedded.seeds]
        mean, lower, upper = cluster_mean(scores[rows].flatten().tolist(), clusters, rng=rng)
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

    Against the *whole* reference set, since a control has no original that was trained on.

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
    """Median and median absolute deviation over prompts, the convention of NeMo and DoRI."""
    kept = per_prompt[~per_prompt.isnan()]
    if not len(kept):
        return {"name": name, "median": None, "mad": None, "n": 0, "unit": unit}
    median, mad = median_mad(kept)
    return {"name": name, "median": median, "mad": mad, "n": len(kept), "unit": unit}
