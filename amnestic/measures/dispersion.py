"""How far apart points lie, how far they moved, and a plane on which that can be seen."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.seeds import seed_for

_BLOCK = 2**24  # numbers that are subtracted at once
_AXES = 50  # principal axes that t-SNE is given
_SEED = 2**32  # scikit-learn takes seeds below it


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where distances lie; every value is `None` when there was no distance.

    Attributes:
        median: Of all of them.
        q05: Below it lie 5 %.
        q25: Below it lies a quarter.
        q75: Above it lies a quarter.
        q95: Above it lie 5 %.
        n: How many there are.
    """

    median: float | None
    q05: float | None
    q25: float | None
    q75: float | None
    q95: float | None
    n: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """Points on a plane.

    Attributes:
        points: ``(N, 2)``, float32 on the CPU, in the order given.
        explained: Share of the variance along each of the two axes, in [0, 1]; `None` where axes mean nothing.
    """

    points: Float[Tensor, "N 2"]
    explained: tuple[float, float] | None


def pairwise_l2(points: Float[Tensor, "N ..."]) -> Float[Tensor, "K"]:
    """Euclidean distances of every two points, each flattened.

    Formula: ``|x_i - x_j|`` for ``i < j``, the difference taken before the square: exact for points that lie close
    together far from zero.

    Args:
        points: N points of any shape, such as conditionings ``(N, L, W)``.

    Returns:
        K = N (N - 1) / 2 distances, float32 on the CPU, in the order of `itertools.combinations`; in units of the
        points, comparable between sets in one space only.

    Raises:
        NotFinite: If a distance is NaN or infinite; compute the points in float32.

    Example:
        >>> pairwise_l2(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]))
        tensor([5., 4., 3.])
    """
    flat = points.flatten(1)
    rows = [_distances(flat[i + 1 :], flat[i]) for i in range(len(flat) - 1)]
    return torch.cat(rows) if rows else torch.empty(0)


def cross_l2(ones: Float[Tensor, "N ..."], others: Float[Tensor, "M ..."]) -> Float[Tensor, "N M"]:
    """Euclidean distances of every point of one set to every point of another.

    Args:
        ones: N points of any shape.
        others: M points of the same shape.

    Returns:
        Float32 on the CPU.

    Raises:
        InputError: If the points have unequal shapes.
        NotFinite: If a distance is NaN or infinite.

    Example:
        >>> cross_l2(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[5., 1.]])
    """
    if ones.shape[1:] != others.shape[1:]:
        raise InputError(
            f"expected points of one shape, got {tuple(ones.shape[1:])} and {tuple(others.shape[1:])}; take both from "
            "one text encoder"
        )
    there = others.flatten(1)
    return torch.stack([_distances(there, one) for one in ones.flatten(1)]) if len(ones) else torch.empty(0, len(there))


def displacement(found: Float[Tensor, "N ..."], starts: Float[Tensor, "N ..."]) -> Float[Tensor, "N"]:
    """How far each point moved from where it started.

    Args:
        found: N points.
        starts: Where they came from, in the same order.

    Returns:
        Euclidean distances, float32 on the CPU.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> displacement(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([5.])
    """
    if found.shape != starts.shape:
        raise InputError(
            f"expected as many starts as points and of one shape, got {tuple(starts.shape)} for {tuple(found.shape)}"
        )
    away = (found.flatten(1).float() - starts.flatten(1).float()).cpu()
    moved: Tensor = torch.linalg.vector_norm(away, dim=1)
    return moved


def spread(values: Float[Tensor, "..."]) -> Spread:
    """Median and quantiles of some distances, interpolated between neighbours.

    Args:
        values: Any shape.

    Returns:
        In the unit of the values.

    Raises:
        NotFinite: If a value is NaN or infinite.

    Example:
        >>> spread(torch.tensor([1.0, 2.0, 3.0, 5.0])).median
        2.5
    """
    if not bool(values.isfinite().all()):
        raise NotFinite("distances must be finite, got NaN or infinity; compute the points in float32")
    if not values.numel():
        return Spread(median=None, q05=None, q25=None, q75=None, q95=None, n=0)
    low, quarter, middle, most, high = np.quantile(values.double().cpu().numpy(), (0.05, 0.25, 0.5, 0.75, 0.95))
    return Spread(
        median=float(middle), q05=float(low), q25=float(quarter), q75=float(most), q95=float(high), n=values.numel()
    )  # fmt: skip


def gaussian_distance(length: int, width: int) -> float:
    """About how far apart two independent N(0, I) conditionings are, by their dimension alone.

    Formula: ``sqrt(2 L W)``, the root of the expected square; above the expected distance by less than one part in
    ``4 L W``.

    Args:
        length: Tokens L.
        width: Width W.

    Returns:
        A distance. Random starts are this far apart before anything is searched, so that a large distance of what
        was found from them is no finding by itself.

    Raises:
        InputError: If a side is below 1.

    Example:
        >>> round(gaussian_distance(77, 768), 1)
        343.9
    """
    if min(length, width) < 1:
        raise InputError(f"expected at least one token and one dimension, got {length} and {width}")
    return math.sqrt(2 * length * width)


def discrepancy(activations: Float[Tensor, "N ..."]) -> float | None:
    """How differently N inputs make one layer speak.

    Formula: mean over pairs of ``|a_i - a_j|``, the whole matrix of tokens and neurons taken as one vector.

    Args:
        activations: One matrix ``(L, U)`` per input, all from the same noise and timestep.

    Returns:
        A mean distance, or `None` for fewer than two inputs. Comparable between sets of inputs in one layer; not
        between layers, which differ in size and scale.

    Raises:
        NotFinite: If a distance is NaN or infinite.

    Example:
        >>> discrepancy(torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]]))
        5.0

    Source:
        Kowalczuk et al., "Finding DoRI", ICML 2026, arXiv 2507.16880.
    """
    distances = pairwise_l2(activations)
    return float(distances.double().mean()) if len(distances) else None


def principal_plane(points: Float[Tensor, "N ..."]) -> Plane:
    """The plane on which points vary most.

    Args:
        points: At least three of any shape; those of several groups one after the other.

    Returns:
        Coordinates and the share of the variance that each axis holds. What looks close on it may be far apart along
        the axes that are left out: distances are judged by `pairwise_l2`.

    Raises:
        InputError: If there are fewer than three points.

    Example:
        >>> principal_plane(torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])).explained
        (1.0, 0.0)

    Source:
        Pearson, "On lines and planes of closest fit to systems of points in space", 1901.
    """
    flat = _matrix(points, least=3)
    if not (flat != flat[0]).any():
        return Plane(points=torch.zeros(len(flat), 2), explained=(0.0, 0.0))
    found = PCA(n_components=min(2, flat.shape[1]), svd_solver="full").fit(flat)
    placed = found.transform(flat)
    shares = [*map(float, found.explained_variance_ratio_), 0.0]
    wide = np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))
    return Plane(points=torch.from_numpy(wide).float(), explained=(shares[0], shares[1]))


def neighbour_map(points: Float[Tensor, "N ..."], *, seed: int, perplexity: float = 30.0) -> Plane:
    """A map by t-SNE that keeps neighbours together; its distances and sizes of clusters mean nothing.

    Args:
        points: At least four of any shape; put onto their first 50 principal axes before.
        seed: Of the optimisation, which begins with the principal plane.
        perplexity: About how many neighbours count; lowered to a third of the points where there are few.

    Returns:
        Coordinates on the map.

    Raises:
        InputError: If there are fewer than four points.

    Source:
        van der Maaten and Hinton, "Visualizing data using t-SNE", 2008.
    """
    flat = _matrix(points, least=4)
    if not (flat != flat[0]).any():
        return Plane(points=torch.zeros(len(flat), 2), explained=None)
    fewer = PCA(n_components=min(_AXES, *flat.shape), svd_solver="full").fit_transform(flat)
    wide = np.pad(fewer, ((0, 0), (0, max(0, 2 - fewer.shape[1]))))
    how = TSNE(
        perplexity=min(perplexity, (len(flat) - 1) / 3), init="pca", n_jobs=1,
        random_state=seed_for(seed, "dispersion", "t-sne") % _SEED,
    )  # fmt: skip
    return Plane(points=torch.from_numpy(np.asarray(how.fit_transform(wide))).float(), explained=None)


def _distances(rows: Float[Tensor, "M D"], one: Float[Tensor, "D"]) -> Float[Tensor, "M"]:
    """From one flat point to others, in pieces that memory can hold."""
    found = [torch.linalg.vector_norm(part.float() - one.float(), dim=1).cpu() for part in _pieces(rows)]
    distances = torch.cat(found) if found else torch.empty(0)
    if not bool(distances.isfinite().all()):
        raise NotFinite("a distance is NaN or infinite; compute the points in float32")
    return distances


def _pieces(rows: Float[Tensor, "M D"]) -> Iterator[Tensor]:
    size = max(1, _BLOCK // max(1, rows.shape[1]))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _matrix(points: Tensor, *, least: int) -> Float[np.ndarray, "N D"]:
    if len(points) < least:
        raise InputError(f"expected at least {least} points to draw, got {len(points)}")
    flat: Float[np.ndarray, "N D"] = points.detach().flatten(1).double().cpu().numpy()
    if not np.isfinite(flat).all():
        raise NotFinite("points must be finite, got NaN or infinity; compute them in float32")
    return flat
