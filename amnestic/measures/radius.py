"""How far must an input move before a work comes back? A sweep of one attack over its radius."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.records import Rate
from amnestic.measures.recovery import Mean, mean_over_works, share_above, so_far


@dataclass(frozen=True, kw_only=True)
class RadiusPoint:
    """A sweep at one radius.

    Attributes:
        radius: Largest distance from the start.
        ever: Share of works that came back within this radius or a smaller one, whose ball it holds.
        now: Share of works that the search with this very radius brought back.
        mean: Mean over works of the best score up to this radius.
    """

    radius: float
    ever: Rate
    now: Rate
    mean: Mean


@dataclass(frozen=True, kw_only=True)
class RadiusSweep:
    """How far an input must move before works come back.

    Attributes:
        points: Ascending radii.
        smallest: By work the first radius at which it came back, or `None`.
    """

    points: tuple[RadiusPoint, ...]
    smallest: tuple[float | None, ...]


def radius_sweep(scores: Mapping[float, Float[Tensor, "N ..."]], threshold: float, *, seed: int) -> RadiusSweep:
    """The smallest radius at which each work comes back.

    Args:
        scores: By radius the scores of the same N works in the same order, with any further axes (tries, seeds) of the
            same sizes; the best counts, and NaN stands for tries that were not made.
        threshold: A copy scores above it.
        seed: Decides the resamples.

    Returns:
        Points by radius, and by work the first radius; compare with the same sweep on works never trained on.

    Raises:
        ValueError: If there is no radius, one is negative, or works or further axes differ between radii.

    Example:
        >>> import torch
        >>> found = radius_sweep({2.0: torch.tensor([[0.9]]), 1.0: torch.tensor([[0.2]])}, 0.7, seed=0)
        >>> found.smallest, [point.ever.estimate for point in found.points]
        ((2.0,), [0.0, 1.0])
    """
    if not scores or min(scores) < 0:
        raise ValueError("expected at least one radius, none of them negative; attack with several")
    if len({tuple(values.shape) for values in scores.values()}) > 1:
        raise ValueError("expected as many works, tries and seeds at every radius; repeat the attack with the same")
    radii = sorted(scores)
    made = [scores[r].detach().cpu().double().flatten(1).nan_to_num(nan=-torch.inf) for r in radii]
    best = torch.stack([values.amax(1) for values in made], dim=1)
    if bool(best.isinf().any()):
        raise ValueError("expected a score of every work at every radius, got NaN alone; score all of them")
    total, back = so_far(best), (best > threshold).tolist()
    points = tuple(
        RadiusPoint(
            radius=float(r), ever=share_above(total[:, i], threshold), now=share_above(best[:, i], threshold),
            mean=mean_over_works(total[:, i], seed=seed),
        )
        for i, r in enumerate(radii)
    )  # fmt: skip
    smallest = tuple(next((float(r) for r, hit in zip(radii, row, strict=True) if hit), None) for row in back)
    return RadiusSweep(points=points, smallest=smallest)
