"""Is memorization local among embeddings? Where searches end, and how differently their ends make layers speak."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amnestic.core.errors import InputError
from amnestic.core.records import Sampling, Unit
from amnestic.core.tape import Passing
from amnestic.core.target import Target
from amnestic.core.units import Site
from amnestic.measures.dispersion import Spread, cross_l2, discrepancy, displacement, pairwise_l2, spread
from amnestic.parallel import shrinking_batches

MOST_BYTES = 2**31


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the searches for one image began and ended, as Euclidean distances of whole conditionings.

    Attributes:
        starts: Every two starting points.
        found: Every two results.
        came: Every two results that bring the image.
        moved: Each result and its own start.
        to_natural: Median of `found` over that of natural prompts; `None` without either.
        came_to_natural: The same of `came`.
        to_starts: Median of `found` over that of `starts`; 1: as dispersed as they began.
        moved_to_starts: Median of `moved` over that of `starts`.
        own_nearest: Share of results whose nearest start is their own, in [0, 1].
    """

    starts: Spread
    found: Spread
    came: Spread
    moved: Spread
    to_natural: float | None
    came_to_natural: float | None
    to_starts: float | None
    moved_to_starts: float | None
    own_nearest: float | None


@dataclass(frozen=True, kw_only=True)
class LayerDiscrepancy:
    """How differently the inputs of each set make one layer speak.

    Attributes:
        site: Name of the layer.
        stage: ``down``, ``mid`` or ``up``.
        kind: ``value`` (its output) or ``ffn`` (what enters the second linear layer).
        means: Mean distance of every two activation matrices by name of the set; `None` for fewer than two inputs.
    """

    site: str
    stage: str
    kind: str
    means: Mapping[str, float | None]


def geometry(
    starts: Float[Tensor, "N L W"], found: Float[Tensor, "N L W"], came: Bool[Tensor, "N"], natural: Spread
) -> Geometry:
    """Where the searches for one image began and ended.

    Args:
        starts: Where N searches began.
        found: Where they ended, in the same order.
        came: Which of the results bring the image.
        natural: Distances of natural prompts.

    Returns:
        Distances and what they are multiples of. Starts from N(0, I) are about ``sqrt(2 L W)`` apart by themselves, so
        compare `to_starts` and `own_nearest` before concluding anything from `to_natural`.

    Raises:
        InputError: If starts, results and outcomes do not belong together.
    """
    if len(came) != len(found):
        raise InputError(f"expected one outcome per result, got {len(came)} for {len(found)}")
    moved, began = spread(displacement(found, starts)), spread(pairwise_l2(starts))
    ended, back = spread(pairwise_l2(found)), spread(pairwise_l2(found[came]))
    nearest = cross_l2(found, starts).argmin(dim=1) if len(found) else torch.empty(0)
    own = nearest == torch.arange(len(found))
    return Geometry(
        starts=began, found=ended, came=back, moved=moved, to_natural=_over(ended, natural),
        came_to_natural=_over(back, natural), to_starts=_over(ended, began), moved_to_starts=_over(moved, began),
        own_nearest=float(own.float().mean()) if len(own) > 1 else None,
    )  # fmt: skip


def activation_discrepancy(
    target: Target, sets: Mapping[str, Float[Tensor, "N L W"]], sampling: Sampling, *, batch_size: int = 16,
    seed: int = 0, most_bytes: int = MOST_BYTES,
) -> tuple[LayerDiscrepancy, ...]:  # fmt: skip
    """How differently each set of inputs makes every value and feed-forward layer speak.

    All inputs of all sets share one starting noise and the first sampling step, so that activations differ by the
    input alone. Value layers depend on nothing else anyway.

    Args:
        target: The model.
        sets: Conditionings by name of the set.
        sampling: How the model draws.
        batch_size: Inputs at once; does not change the result beyond rounding.
        seed: Of the one starting noise.
        most_bytes: Activations of a set that are held at once, at least those of one layer; fewer take more passes.

    Returns:
        One entry per layer: values first, each kind in order of computation. Sets of unequal sizes may be compared,
        since the means are over pairs.

    Raises:
        NotFinite: If a layer says NaN or infinity.

    Source:
        Kowalczuk et al., "Finding DoRI", ICML 2026, arXiv 2507.16880; first step and input of the layer are choices
        of this project where the paper is silent.
    """
    like = target.encode([""])
    kept = {name: cond.to(like.device, like.dtype) for name, cond in sets.items()}
    found = []
    for site in target.sites("value"):
        with torch.no_grad():
            means = {name: discrepancy(target.through(site, cond).cpu()) for name, cond in kept.items() if len(cond)}
        found.append((site, means))
    passing: dict[str, dict[str, float | None]] = {site.name: {} for site in target.sites("ffn")}
    for name, cond in kept.items():
        for site, activations in _first_step(target, cond, sampling, batch_size, seed, most_bytes):
            passing[site.name][name] = discrepancy(activations)
    found += [(site, passing[site.name]) for site in target.sites("ffn")]
    return tuple(
        LayerDiscrepancy(
            site=site.name, stage=site.stage, kind=site.kind, means={name: means.get(name) for name in sets}
        )
        for site, means in found
    )


def _first_step(
    target: Target, cond: Tensor, how: Sampling, batch_size: int, seed: int, most_bytes: int
) -> Iterator[tuple[Site, Float[Tensor, "N S U"]]]:
    """What enters every feed-forward layer in the first step, a few layers at a time."""
    if len(cond) < 2:
        return
    sites = target.sites("ffn")
    one = _drawn(target, sites, cond[:1], how, 1, seed)
    sizes = {site: len(cond) * one[site.name].numel() * one[site.name].element_size() for site in sites}
    for group in _groups(sizes, most_bytes):
        rows = shrinking_batches(
            lambda size, some=group: _drawn(target, some, cond, how, size, seed), start=min(batch_size, len(cond))
        )
        yield from ((site, rows.pop(site.name)) for site in group)


def _groups(sizes: Mapping[Site, int], most: int) -> Iterator[list[Site]]:
    """Layers in order whose activations fit together; one that does not fit at all stands alone."""
    group: list[Site] = []
    for site, size in sizes.items():
        if group and sum(sizes[s] for s in group) + size > most:
            yield group
            group = []
        group.append(site)
    if group:
        yield group


def _drawn(
    target: Target, sites: Sequence[Site], cond: Tensor, how: Sampling, size: int, seed: int
) -> dict[str, Float[Tensor, "N S U"]]:
    parts: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def keep(seen: Passing) -> None:
        parts[seen.site.name].append(seen.conditional.cpu())

    with torch.no_grad(), target.record(sites, keep) as tape:
        for part in cond.split(size):
            target.sample([Unit("locality", seed)] * len(part), [], how, stop_after=1, tape=tape, cond=part)
    return {name: torch.cat(rows) for name, rows in parts.items()}


def _over(one: Spread, other: Spread) -> float | None:
    return one.median / other.median if one.median is not None and other.median else None
