"""One model before and after an edit: the same prompts, seeds and judge, compared work by work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.replication import Embedded, deciding_rows, first_rows, rows_with
from amnestic.core.records import plain
from amnestic.measures.intervals import rate
from amnestic.measures.paired import mcnemar, paired_bootstrap
from amnestic.measures.similarity import diversity, nearest, paired

Scores = Float[Tensor, "P S"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one descriptor says of one model's images.

    Attributes:
        paired: Similarity with the prompt's own original; NaN without one.
        nearest: Highest similarity with any original.
        generated: Descriptors of the images, ``(P, S, D)``.
        alignment: CLIP alignment with the prompt, or `None` when no CLIP model was given.
    """

    paired: Scores
    nearest: Scores
    generated: Float[Tensor, "P S D"]
    alignment: Scores | None


def side_of(embedded: Embedded, generated: Float[Tensor, "P S D"], alignment: Scores | None) -> Side:
    """Scores of other images of the same prompts and seeds, against the same originals.

    Args:
        embedded: Prompts, originals and works.
        generated: Descriptors of the images.
        alignment: CLIP alignment of these images, or `None`.

    Returns:
        Cosines in [-1, 1], comparable within one descriptor.
    """
    index = torch.tensor(embedded.original)
    pair = torch.full(generated.shape[:2], float("nan"))
    rows = (index >= 0).nonzero().flatten()
    if len(rows):
        pair[rows] = paired(generated[rows], embedded.references[index[rows]])
    best, _ = nearest(generated.flatten(0, 1), embedded.references)
    return Side(paired=pair, nearest=best[:, 0].reshape(pair.shape), generated=generated, alignment=alignment)


def rates(
    embedded: Embedded, before: Side, after: Side, threshold: float, groups: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Memorization rates of groups of works before and after, with an exact McNemar test.

    Args:
        embedded: What was compared.
        before: Scores of the model before the edit.
        after: Scores of the model after it.
        threshold: Decides replication on both sides.
        groups: Name -> rows, one per work; controls are judged against all originals.

    Returns:
        A row per group that has any works.
    """
    found = []
    for name, rows in groups.items():
        if not rows:
            continue
        controls = all(embedded.original[r] < 0 or embedded.prompts[r].label in ("heldout", "base") for r in rows)
        hits = [((s.nearest if controls else s.paired)[list(rows)].amax(1) > threshold) for s in (before, after)]
        found.append(
            {
                "group": name, "works": len(rows), "before": rate(int(hits[0].sum()), len(rows)),
                "after": rate(int(hits[1].sum()), len(rows)), "mcnemar": mcnemar(*hits),
            }
        )  # fmt: skip
    return [plain(row) for row in found]


def groups_of(embedded: Embedded, located: Sequence[str], others: Sequence[str]) -> dict[str, list[int]]:
    """Groups of works that are looked at apart.

    Args:
        embedded: Prompts and works.
        located: Works that the edit was made from, if any.
        others: Works that replicated and were not used for it.

    Returns:
        Name -> deciding rows; groups may share works.
    """
    rows, chosen, left = deciding_rows(embedded), set(located), set(others)
    found = {"all works": rows}
    if chosen:
        found["works used to locate"] = [r for r in rows if embedded.work_of(r) in chosen]
        found["other works that replicated"] = [r for r in rows if embedded.work_of(r) in left]
    rungs = sorted({p.rung for p in embedded.prompts if p.rung is not None})
    for rung in rungs if len(rungs) > 1 else ():
        found[f"rung {rung}"] = [r for r in rows if embedded.prompts[r].rung == rung]
    found |= {
        "held-out": first_rows(embedded, rows_with(embedded, "heldout")),
        "base prompts": rows_with(embedded, "base"),
    }
    return found


def changes(embedded: Embedded, before: Side, after: Side, unit: str, located: Sequence[int]) -> list[dict[str, Any]]:
    """Changes of means over the same prompts and seeds, with paired bootstrap intervals.

    Args:
        embedded: Prompts and works.
        before: Scores of the model before the edit.
        after: Scores of the model after it.
        unit: Name of the copy descriptor.
        located: Rows the edit was made from; those most like them among the controls are looked at apart.

    Returns:
        Plain rows: name, group, unit, direction, means before and after, and the change; SSCD_Gen, which compares
        the two models with each other, has only a mean.
    """
    works, base = deciding_rows(embedded), rows_with(embedded, "base")
    cosine = f"cosine, {unit}"
    found = [
        _change("SSCD_Orig (max over seeds)", "works", cosine, "lower is better", works,
                before.paired.amax(1, keepdim=True), after.paired.amax(1, keepdim=True)),
        _change("D_SSCD", "works", cosine, "lower is better", works, _column(before), _column(after)),
        _change("D_SSCD", "base prompts", cosine, "", base, _column(before), _column(after)),
        _same("SSCD_Gen (1 before)", "works", cosine, "", works, before, after),
        _same("SSCD_Gen (1 before)", "base prompts", cosine, "", base, before, after),
    ]  # fmt: skip
    near = neighbours(embedded, before, located, base)
    found.append(
        _same("SSCD_Gen (1 before)", "base prompts nearest to the works located", cosine, "", near, before, after)
    )
    if before.alignment is not None and after.alignment is not None:
        found += [
            _change("CLIP alignment", group, "cosine", way, rows, before.alignment, after.alignment, relative=True)
            for group, rows, way in (
                ("base prompts", base, "higher is better"), ("works", works, ""),
                ("base prompts nearest to the works located", near, "higher is better"),
            )
        ]  # fmt: skip
    return [row for row in found if row is not None]


def neighbours(embedded: Embedded, before: Side, located: Sequence[int], base: Sequence[int]) -> list[int]:
    """The fifth of the base prompts whose images come closest to the originals of the works located.

    Args:
        embedded: Originals.
        before: The model before the edit.
        located: Rows of the works.
        base: Rows of base prompts.

    Returns:
        Rows; none without works or base prompts.
    """
    originals = [embedded.original[r] for r in located if embedded.original[r] >= 0]
    if not originals or not base:
        return []
    likeness = (before.generated[list(base)] @ embedded.references[originals].T).amax(dim=(1, 2))
    n = max(1, len(base) // 5)
    return sorted(base[int(i)] for i in likeness.argsort(descending=True, stable=True)[:n])


def likeness_to_twin(
    embedded: Embedded, before: Side, after: Side, twin: Float[Tensor, "P S D"], unit: str, located: Sequence[int]
) -> list[dict[str, Any]]:
    """How much more the images are those of a model that never saw the works, which is the optimum of unlearning.

    Args:
        embedded: Prompts and works.
        before: The model before the edit.
        after: The model after it.
        twin: Descriptors of that other model's images.
        unit: Name of the copy descriptor.
        located: Rows the edit was made from.

    Returns:
        Rows as of `changes`, for all works and for those located; a group of one work has none.
    """
    name = "likeness to the model that never saw the works"
    one, other = (likeness_of(side.generated, twin) for side in (before, after))
    groups = {"works": deciding_rows(embedded), "works used to locate": located}
    found = [
        _change(name, group, f"cosine, {unit}", "higher is better", rows, one, other) for group, rows in groups.items()
    ]
    return [row for row in found if row is not None]


def likeness_of(one: Float[Tensor, "P S D"], other: Float[Tensor, "P S D"]) -> Scores:
    """Similarity of two models' images of the same prompt and seed."""
    return (one * other).sum(-1)


def _column(side: Side) -> Float[Tensor, "P 1"]:
    return diversity(side.generated)[:, None]


def _change(
    name: str, group: str, unit: str, direction: str, rows: Sequence[int], before: Tensor, after: Tensor,
    *, relative: bool = False,
) -> dict[str, Any] | None:  # fmt: skip
    """A row, or nothing when fewer than two prompts have the value on both sides."""
    one, other = before[list(rows)], after[list(rows)]
    known = ~(one.isnan().any(1) | other.isnan().any(1))
    one, other = one[known], other[known]
    if len(one) < 2:
        return None
    relative = relative and _mean_is_safe(one)  # else absolute, which the method of the interval says
    return {
        "name": name, "group": group, "unit": unit, "direction": direction, "before": float(one.mean()),
        "after": float(other.mean()),
        "change": plain(paired_bootstrap(one, other, seed=0, relative=relative)),
    }  # fmt: skip


def _same(
    name: str, group: str, unit: str, direction: str, rows: Sequence[int], before: Side, after: Side
) -> dict[str, Any] | None:
    """How alike the two models' images of one prompt and seed are; a model is wholly like itself."""
    like = likeness_of(before.generated, after.generated)
    return _change(name, group, unit, direction, rows, torch.ones_like(like), like)


def _mean_is_safe(before: Tensor) -> bool:
    """Whether a mean over resampled works stays above 0, by ten standard errors."""
    means = before.mean(1)
    return bool(float(means.mean()) > 10 * float(means.std()) / len(means) ** 0.5)
