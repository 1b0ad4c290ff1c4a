"""How far apart two sets of images are, by features of all their images; and whether an edit moved one of them.

Every number of this file depends on the encoder that made the features and on the numbers of images: compare only
within one encoder, one preprocessing and equal sizes.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.seeds import generator
from amnestic.measures.similarity import NORM_TOLERANCE

Measure = Callable[[Float[Tensor, "N D"], Float[Tensor, "R D"]], float]
RESAMPLINGS = ("bootstrap", "half")
_ROWS = 2048  # of a kernel matrix, held at once


@dataclass(frozen=True, kw_only=True)
class KernelInceptionDistance:
    """A kernel inception distance over random subsets.

    Attributes:
        mean: Mean over subsets; unbiased, so it may lie below 0 for sets that are alike.
        std: Standard deviation over subsets (divided by their number); subsets overlap, so it is no standard error.
            `None` for one subset.
        subset_size: Images of each set in a subset.
        n_subsets: Subsets that were drawn.
    """

    mean: float
    std: float | None
    subset_size: int
    n_subsets: int


@dataclass(frozen=True, kw_only=True)
class ChangeOfDistance:
    """How much farther from a reference images are after an edit than before it.

    Attributes:
        estimate: Distance after minus distance before; above 0 says farther away.
        lower: Lower end of the two-sided 95 % interval, `None` for too few groups.
        upper: Upper end, `None` for too few groups.
        before: Distance of the images before.
        after: Distance of the images after.
        n: Groups, the unit that was resampled.
        method: How the interval was made.
    """

    estimate: float
    lower: float | None
    upper: float | None
    before: float
    after: float
    n: int
    method: str


def kid(
    features_a: Float[Tensor, "N D"], features_b: Float[Tensor, "R D"], *, subset_size: int, n_subsets: int, seed: int
) -> KernelInceptionDistance:
    """Kernel inception distance of two sets of images, over random subsets.

    Formula: unbiased MMD^2 with the kernel ``(<x, y> / D + 1)^3``: mean of k over pairs of different images within
    each set, minus twice the mean over pairs of both sets. Subsets are drawn from each set without repeats.

    Args:
        features_a: Features of N images by any encoder; the name and published values refer to Inception-v3's 2048.
        features_b: Features of R images by the same encoder.
        subset_size: Images per subset, from 2 to the smaller set.
        n_subsets: How many subsets, at least 1.
        seed: Decides the subsets; those of a set do not depend on the other set.

    Returns:
        Distance of any sign around 0 for sets that are alike. Comparable only within one encoder and preprocessing.

    Raises:
        InputError: If shapes disagree or the subsets do not fit; give fewer images per subset.
        NotFinite: If a feature is NaN or infinite; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> far = kid(torch.zeros(4, 2), torch.full((4, 2), 2.0), subset_size=4, n_subsets=2, seed=0)
        >>> far.mean, far.std
        (124.0, 0.0)

    Source:
        Binkowski et al., "Demystifying MMD GANs", ICLR 2018; kernel and estimator as in torchmetrics.
    """
    a, b = _features(features_a, "features_a"), _features(features_b, "features_b")
    _require_one_encoder(a, b)
    if not 2 <= subset_size <= min(len(a), len(b)) or n_subsets < 1:
        raise InputError(
            f"expected 2 to {min(len(a), len(b))} images per subset and at least 1 subset, "
            f"got {subset_size} and {n_subsets}; give fewer images per subset or more images"
        )
    draw_a, draw_b = generator(seed, "kid", "a"), generator(seed, "kid", "b")
    values = torch.tensor(
        [float(poly_mmd(_subset(a, subset_size, draw_a), _subset(b, subset_size, draw_b))) for _ in range(n_subsets)],
        dtype=torch.float64,
    )
    std = float(values.std(correction=0)) if n_subsets > 1 else None
    return KernelInceptionDistance(mean=float(values.mean()), std=std, subset_size=subset_size, n_subsets=n_subsets)


def clip_mmd(a: Float[Tensor, "N D"], b: Float[Tensor, "R D"], *, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """Maximum mean discrepancy of CLIP embeddings of two sets of images (CMMD).

    Formula: ``scale * (mean k(a, a) + mean k(b, b) - 2 mean k(a, b))`` with ``k = exp(-|x - y|^2 / (2 sigma^2))``. As
    published the means include each image with itself, which makes it a biased estimate, larger for fewer images.

    Args:
        a: Unit embeddings of N images.
        b: Unit embeddings of R images by the same encoder.
        sigma: Width of the kernel, above 0.
        scale: Factor for readable numbers, above 0.

    Returns:
        Distance of at least 0 up to rounding; 0 for equal sets. Comparable only within one encoder (published:
        CLIP ViT-L/14 at 336 pixels), one sigma and scale, and equal numbers of images.

    Raises:
        InputError: If shapes disagree, there is no image, rows are not unit vectors, or sigma or scale is not above 0.
        NotFinite: If an embedding holds NaN or infinity; encode in float32 or bfloat16.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> clip_mmd(one, one), round(clip_mmd(one, other), 4)
        (0.0, 19.9003)

    Source:
        Jayasumana et al., "Rethinking FID: Towards a Better Evaluation Metric for Image Generation", CVPR 2024.
    """
    one, other = _features(a, "a"), _features(b, "b")
    _require_one_encoder(one, other)
    if not (0 < sigma < math.inf and 0 < scale < math.inf):
        raise InputError(f"sigma and scale must be above 0 and finite, got {sigma} and {scale}; the paper has 10, 1000")
    for rows in (one, other):
        _require_unit(rows)
    within = _mean_kernel(one, one, sigma) + _mean_kernel(other, other, sigma)
    return scale * (within - 2 * _mean_kernel(one, other, sigma))


def change_of_distance(
    before: Float[Tensor, "N D"],
    after: Float[Tensor, "N D"],
    reference: Float[Tensor, "R D"],
    *,
    measure: Measure,
    seed: int,
    n_resamples: int = 1000,
    groups: Sequence[Hashable] | None = None,
    resampling: str = "bootstrap",
) -> ChangeOfDistance:
    """How much farther from reference images those after an edit are than those before it.

    Formula: ``measure(after, reference) - measure(before, reference)``. The same groups of rows are drawn for both,
    the spread of the difference over draws is laid around the estimate: ``estimate + quantile(draws - mean(draws))``.
    Plain percentiles would be wrong, since kernel distances count an image that is drawn twice as a close pair.

    Args:
        before: Features of N images; row i is of the same prompt and seed as row i of `after`.
        after: The same prompts and seeds in the same order.
        reference: Features of R images by the same encoder; held fixed, so the interval is for these.
        measure: Distance of two sets, such as `clip_mmd` or ``lambda a, b: kid(a, b, ...).mean``; called twice per
            draw, so give kid few subsets of a size that half of the images can fill.
        seed: Decides the draws.
        n_resamples: How many draws, at least 1.
        groups: One label per row; rows of one label are drawn together. Images of one prompt are not independent, so
            give the prompt (or the work) of each row; without it every row is its own group.
        resampling: ``bootstrap`` draws as many groups with repeats. ``half`` draws half of them without repeats, which
            is as wide for means and, for kernels that grow with the features (`kid`), not needlessly wide.

    Returns:
        The change in the unit of the measure. Comparable only within one encoder, one measure and equal numbers of
        images. The interval includes no uncertainty of the reference. There is none for fewer than two groups.

    Raises:
        InputError: If shapes or labels disagree, n_resamples is below 1, or the resampling is not known.
        NotFinite: If a feature is NaN or infinite, or the measure says so.

    Example:
        >>> import torch
        >>> images = torch.nn.functional.normalize(torch.arange(12.0).reshape(6, 2) + 1)
        >>> found = change_of_distance(images, images, images[:3], measure=clip_mmd, seed=0, n_resamples=10)
        >>> found.estimate, found.lower, found.upper, found.n
        (0.0, 0.0, 0.0, 6)

    Source:
        Field and Welsh, "Bootstrapping clustered data", 2007; halves: Politis and Romano, "Large sample confidence
        regions based on subsamples under minimal assumptions", 1994.
    """
    old, new, fixed = _features(before, "before"), _features(after, "after"), _features(reference, "reference")
    _require_one_encoder(old, fixed)
    _require_draws(old, new, n_resamples, resampling)
    members = _members(groups, len(old))
    at_first, at_last = _finite(measure(old, fixed)), _finite(measure(new, fixed))
    found = ChangeOfDistance(
        estimate=at_last - at_first, lower=None, upper=None, before=at_first, after=at_last, n=len(members),
        method="one group: no interval",
    )  # fmt: skip
    if len(members) < 2:
        return found
    rng = generator(seed, "change of distance", resampling)
    draws = torch.empty(n_resamples, dtype=torch.float64)
    for i in range(n_resamples):
        rows = torch.cat([members[g] for g in _picks(len(members), resampling, rng)]).to(old.device)
        draws[i] = _finite(measure(new[rows], fixed)) - _finite(measure(old[rows], fixed))
    spread = (draws - draws.mean()) * _widening(len(members), resampling)
    lower, upper = (found.estimate + float(torch.quantile(spread, q)) for q in (0.025, 0.975))
    unit = "rows" if groups is None else "groups"
    return replace(
        found,
        lower=min(lower, found.estimate),
        upper=max(upper, found.estimate),
        method=f"paired {resampling} 95 % over {unit}, centred on the estimate, {n_resamples} resamples, "
        "reference fixed",
    )


def _picks(n: int, resampling: str, rng: torch.Generator) -> list[int]:
    """Groups of one draw."""
    if resampling == "half":
        return torch.randperm(n, generator=rng)[: n // 2].tolist()
    return torch.randint(n, (n,), generator=rng).tolist()


def _widening(n: int, resampling: str) -> float:
    """What makes the variance of a mean over one draw that of the mean over n groups: 1 for exact halves."""
    drawn = n // 2
    return math.sqrt(drawn / (n - drawn)) if resampling == "half" else 1.0


def _members(groups: Sequence[Hashable] | None, n: int) -> list[Int[Tensor, "K"]]:
    """Rows of each group, groups in order of their first row."""
    labels = range(n) if groups is None else groups
    if len(labels) != n:
        raise InputError(f"there must be one group per row, got {len(labels)} for {n} rows; give each row its prompt")
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return [torch.tensor(found) for found in rows.values()]


def _subset(features: Float[Tensor, "N D"], size: int, rng: torch.Generator) -> Float[Tensor, "K D"]:
    return features[torch.randperm(len(features), generator=rng)[:size].to(features.device)]


def _mean_kernel(a: Float[Tensor, "N D"], b: Float[Tensor, "R D"], sigma: float) -> float:
    """Mean Gaussian kernel over all pairs, some rows at a time."""
    squares, total = b.square().sum(1), 0.0
    for rows in a.split(_ROWS):
        distances = rows.square().sum(1)[:, None] + squares[None, :] - 2 * rows @ b.T
        total += float(torch.exp(distances / (-2 * sigma**2)).sum())
    return total / (len(a) * len(b))


def _features(features: Float[Tensor, "N D"], name: str) -> Float[Tensor, "N D"]:
    """Checked, in float64: distances are small differences of large sums."""
    if features.ndim != 2 or 0 in features.shape:
        raise InputError(f"{name} must have 2 axes (images, features), got shape {tuple(features.shape)}; stack them")
    exact = features.detach().double()
    if not bool(exact.isfinite().all()):
        raise NotFinite(f"{name} must be finite, got NaN or infinity; encode in float32 or bfloat16")
    return exact


def _finite(distance: float) -> float:
    if not math.isfinite(distance):
        raise NotFinite(f"the measure must give a finite distance, got {distance}; see what it was given")
    return float(distance)


def _require_one_encoder(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features must be of one encoder, got widths {a.shape[1]} and {b.shape[1]}; encode both alike"
        )


def _require_draws(before: Tensor, after: Tensor, n_resamples: int, resampling: str) -> None:
    if before.shape != after.shape:
        raise InputError(
            f"before and after must have one shape, got {tuple(before.shape)} and {tuple(after.shape)}; "
            "keep only prompts and seeds that both have"
        )
    if n_resamples < 1 or resampling not in RESAMPLINGS:
        raise InputError(
            f"expected at least 1 resample by {' or '.join(RESAMPLINGS)}, got {n_resamples} by {resampling}"
        )


def _require_unit(rows: Float[Tensor, "N D"]) -> None:
    norms = torch.linalg.vector_norm(rows, dim=1)
    off = (norms - 1).abs()
    if bool((off > NORM_TOLERANCE).any()):
        worst = float(norms[off.argmax()])
        raise InputError(f"embeddings must be unit vectors, got a norm of {worst:.4g}; normalise them first")
