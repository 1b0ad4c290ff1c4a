"""Training images found without any original: many generations of one prompt that are nearly one image.

The attack only claims; `extraction_outcome` judges its claims by an independent similarity with the trained works.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import Rate
from amnestic.measures.intervals import rate

Picture = UInt8[np.ndarray, "H W 3"]
Distances = Float[np.ndarray, "S S"]
_DECIMALS = 12  # sums in another order differ by less; ties must stay ties
_COLUMNS = 2**14  # of one patch, held as float64 at once


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What the generations of one prompt say.

    Attributes:
        members: Positions of the near-identical generations, ascending; empty if there are too few of them.
        representative: The member nearest to the others on average, of equal ones the first; `None` without members.
        distance: Mean tiled distance of two members, in [0, 1]; `None` without members.
        images: Generations that were compared.
        complete: Whether the whole graph was searched. If not, there may be a larger clique, and no members means
            "not decided" instead of "none".
    """

    members: tuple[int, ...] = ()
    representative: int | None = None
    distance: float | None = None
    images: int
    complete: bool = True

    @property
    def extracted(self) -> bool:
        """Whether the attack claims to have found a training image; a claim, not a success."""
        return bool(self.members)


@dataclass(frozen=True, kw_only=True)
class CliqueExtraction:
    """Claims a training image where enough generations of one prompt are all near each other.

    Formula: a graph with an edge where ``tiled_l2 <= distance``; its largest clique, if it has at least `clique`
    members. Of cliques of one size the tightest is taken (smallest mean distance), then the first by position.

    Attributes:
        tiles: Patches along each side, at least 1. Published: 16 patches of 128 pixels, which is 4.
        distance: Two generations are near at this tiled distance or below, in [0, 1]. 0.15 is the distance from its
            original below which the paper counts an image as extracted; that the same value joins two generations is
            a choice made here. Too small misses copies, too large joins everything: check on prompts without a work.
        clique: Least number of members, at least 2. Published: 10 of 500 generations.
        clique_share: The same as a share of the generations, in (0, 1], rounded up, never below 2; overrides `clique`
            when given. The published one is 0.02; for few generations take more, as chance pairs are no evidence.
        limit: Maximal cliques that are looked at, at least 1. There may be exponentially many; beyond this many the
            largest seen so far is taken and the candidate says that it is not `complete`.

    Example:
        >>> import numpy as np
        >>> images = [np.full((8, 8, 3), grey, np.uint8) for grey in (0, 200, 100, 202, 201)]
        >>> found = CliqueExtraction(clique=3, distance=0.01)(images)
        >>> found.members, found.representative, found.extracted
        ((1, 3, 4), 4, True)

    Source:
        Carlini et al., "Extracting Training Data from Diffusion Models", USENIX Security 2023.
    """

    tiles: int = 4
    distance: float = 0.15
    clique: int = 10
    clique_share: float | None = None
    limit: int = 100_000

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if self.tiles < 1 or self.limit < 1:
            raise ValueError(f"tiles and limit must be at least 1, got {self.tiles} and {self.limit}")
        if not 0 <= self.distance <= 1:
            raise ValueError(f"distance must lie in [0, 1], got {self.distance}; the paper has 0.15")
        if self.clique < 2:
            raise ValueError(f"clique must be at least 2, got {self.clique}; one image is near itself")
        if self.clique_share is not None and not 0 < self.clique_share <= 1:
            raise ValueError(f"clique_share must lie in (0, 1], got {self.clique_share}; the paper has 0.02")

    def least(self, images: int) -> int:
        """Members that a clique needs among so many generations.

        Example:
            >>> CliqueExtraction(clique_share=0.02).least(500), CliqueExtraction(clique_share=0.02).least(16)
            (10, 2)
        """
        if self.clique_share is None:
            return self.clique
        return max(2, math.ceil(round(self.clique_share * images, _DECIMALS)))

    def __call__(self, images: Sequence[Picture]) -> Candidate:
        """Look for near-identical generations of one prompt.

        Args:
            images: S generations from different starting noise, uint8 RGB, all of one size.

        Returns:
            A claim or none. Comparable only for one S and the same settings.

        Raises:
            InputError: If there are fewer images than a clique needs (draw more), one is not uint8 RGB, sizes differ
                or the tiles do not fit.
        """
        least = self.least(len(images))
        if len(images) < least:
            raise InputError(
                f"expected at least {least} generations of one prompt, got {len(images)}; draw more or lower clique"
            )
        distances = tiled_distances(images, tiles=self.tiles)
        members, complete = _largest_clique(distances, distances <= self.distance, least, self.limit)
        if not members:
            return Candidate(images=len(images), complete=complete)
        inside = distances[np.ix_(members, members)]
        nearest = int(np.argmin(np.round(inside.sum(axis=1), _DECIMALS)))
        return Candidate(
            members=members,
            representative=members[nearest],
            distance=_mean_distance(inside),
            images=len(images),
            complete=complete,
        )


@dataclass(frozen=True, kw_only=True)
class ExtractionOutcome:
    """What the claims of an extraction are worth.

    Attributes:
        claimed: Prompts with a claim.
        undecided: Prompts without a claim whose search was not complete; recall counts them as if they had none.
        recovered: Works that some claim shows, whichever prompt it came from, in the order of the works.
        recovered_own: Those that a claim of one of their own prompts shows.
        precision: Share of claims that show a trained work; "not measured" without claims.
        recall: Share of all works that are recovered.
        recall_own: Share of works that own a judged prompt and are recovered by one of their own.
        images: Generations that were drawn for it.
    """

    claimed: int
    undecided: int
    recovered: tuple[str, ...]
    recovered_own: tuple[str, ...]
    precision: Rate
    recall: Rate
    recall_own: Rate
    images: int


def extraction_outcome(
    candidates: Mapping[str, Candidate],
    similarity: Mapping[str, Float[Tensor, "W"]],
    *,
    works: Sequence[str],
    own: Mapping[str, str],
    threshold: float,
) -> ExtractionOutcome:
    """Judge claims by how like their representatives are to the works that were trained on.

    Formula: a claim shows every work w with ``similarity > threshold``; precision is claims that show any work over
    claims, recall is works shown over works. A clique alone is no success.

    Args:
        candidates: What the attack said, by prompt.
        similarity: For each prompt with a claim the similarity of its representative with the W works, such as SSCD
            cosines, in [-1, 1]; those of other prompts are not read.
        works: Names of the W works in the same order, all of them trained on and none twice.
        own: The work of a prompt; prompts without one are left out.
        threshold: A copy scores above it, in [-1, 1]; of the descriptor that made `similarity`.

    Returns:
        Counts and rates in [0, 1] with their intervals. Comparable only for one S, one descriptor and threshold, and
        the same works. Intervals of precision take claims as independent, which several prompts of one work are not.

    Raises:
        InputError: If a claim has no row of W similarities, a work is named twice or is not among the works, or the
            threshold is not within [-1, 1].
        NotFinite: If a similarity is NaN or infinite; find where it was computed.

    Example:
        >>> import torch
        >>> claim = Candidate(members=(0, 1), representative=0, distance=0.01, images=4)
        >>> found = extraction_outcome(
        ...     {"p": claim, "q": Candidate(images=4)},
        ...     {"p": torch.tensor([0.1, 0.9])},
        ...     works=("a", "b"),
        ...     own={"p": "a"},
        ...     threshold=0.5,
        ... )
        >>> found.recovered, found.recovered_own, found.precision.estimate, found.recall.estimate, found.images
        (('b',), (), 1.0, 0.5, 8)

    Source:
        Carlini et al., "Extracting Training Data from Diffusion Models", USENIX Security 2023, who judge by tiled
        distance and by eye.
    """
    _require_works(works, own, threshold)
    claims = [prompt for prompt, candidate in candidates.items() if candidate.extracted]
    shown = {prompt: _shown(prompt, similarity, works, threshold) for prompt in claims}
    anyhow = {work for found in shown.values() for work in found}
    by_own = {own[prompt] for prompt, found in shown.items() if prompt in own and own[prompt] in found}
    owners = {own[prompt] for prompt in candidates if prompt in own}
    return ExtractionOutcome(
        claimed=len(claims),
        undecided=sum(not c.extracted and not c.complete for c in candidates.values()),
        recovered=tuple(work for work in works if work in anyhow),
        recovered_own=tuple(work for work in works if work in by_own),
        precision=rate(sum(bool(found) for found in shown.values()), len(claims)),
        recall=rate(len(anyhow), len(works)),
        recall_own=rate(len(by_own), len(owners)),
        images=sum(candidate.images for candidate in candidates.values()),
    )


def tiled_distances(images: Sequence[Picture], *, tiles: int = 4) -> Distances:
    """Tiled distance of every two of S pictures.

    Formula: `amnestic.measures.pixels.tiled_l2` of each pair, through ``|a|^2 + |b|^2 - 2 <a, b>`` per patch on whole
    numbers, which float64 holds exactly; equal to it up to the last rounding. Equal pictures have distance 0 exactly.

    Args:
        images: S pictures, uint8 RGB, all of one size, at least `tiles` pixels wide and high.
        tiles: Patches along each side.

    Returns:
        Symmetric, in [0, 1], zero on the diagonal. Comparable only for one `tiles`.

    Raises:
        InputError: If there is no picture, one is not uint8 RGB, sizes differ (use `match_size`) or tiles do not fit.

    Example:
        >>> import numpy as np
        >>> black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
        >>> tiled_distances([black, white, black]).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]

    Source:
        Carlini et al., "Extracting Training Data from Diffusion Models", USENIX Security 2023.
    """
    height, width = _one_size(images, tiles)
    worst = np.zeros((len(images), len(images)))
    for rows in np.array_split(np.arange(height), tiles):
        for columns in np.array_split(np.arange(width), tiles):
            patch = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            flat = np.stack([image[patch].reshape(-1) for image in images])
            worst = np.maximum(worst, _squared_distances(flat) / flat.shape[1])
    distances: Distances = np.sqrt(worst) / 255
    return distances


def _squared_distances(flat: UInt8[np.ndarray, "S K"]) -> Distances:
    """Sum of squared differences of every two rows, exact while K stays below 2**35."""
    products = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], _COLUMNS):
        block = flat[:, start : start + _COLUMNS].astype(np.float64)
        products += block @ block.T
    squares = products.diagonal()
    return squares[:, None] + squares[None, :] - 2 * products


def _largest_clique(
    distances: Distances, near: Bool[np.ndarray, "S S"], least: int, limit: int
) -> tuple[tuple[int, ...], bool]:
    """Largest clique of at least `least` members, of equal ones the tightest; and whether all were looked at."""
    graph = nx.Graph()
    graph.add_edges_from(np.argwhere(np.triu(near, 1)).tolist())
    best: tuple[int, float, tuple[int, ...]] = (-least, math.inf, ())
    for seen, clique in enumerate(nx.find_cliques(nx.k_core(graph, least - 1))):
        if seen == limit:
            return best[2], False
        if len(clique) >= -best[0]:
            members = tuple(sorted(clique))
            tightness = round(_mean_distance(distances[np.ix_(members, members)]), _DECIMALS)
            best = min(best, (-len(members), tightness, members))
    return best[2], True


def _mean_distance(inside: Distances) -> float:
    """Mean over pairs of different images."""
    n = len(inside)
    return float(inside.sum()) / (n * (n - 1))


def _shown(
    prompt: str, similarity: Mapping[str, Float[Tensor, "W"]], works: Sequence[str], threshold: float
) -> frozenset[str]:
    """Works that the claim of a prompt shows."""
    row = similarity.get(prompt)
    if row is None or row.shape != (len(works),):
        came = "none" if row is None else f"shape {tuple(row.shape)}"
        raise InputError(
            f"expected {len(works)} similarities for the claim of {prompt}, got {came}; "
            "score its representative against every work"
        )
    if not bool(row.isfinite().all()):
        raise NotFinite(f"similarities of {prompt} must be finite, got NaN or infinity; find where it was computed")
    return frozenset(work for work, score in zip(works, row.tolist(), strict=True) if score > threshold)


def _require_works(works: Sequence[str], own: Mapping[str, str], threshold: float) -> None:
    if len(set(works)) != len(works):
        raise InputError(
            "works must differ, got one twice; give one similarity per work, such as that of its best image"
        )
    unknown = sorted(set(own.values()) - set(works))
    if unknown:
        raise InputError(
            f"prompts' own works must be among the works, got {', '.join(unknown)}; leave such prompts out"
        )
    if not -1 <= threshold <= 1:
        raise InputError(f"the threshold must be within [-1, 1], got {threshold}; it is one on cosines")


def _one_size(images: Sequence[Picture], tiles: int) -> tuple[int, int]:
    """Height and width of all pictures."""
    if not images:
        raise InputError("expected at least one picture, got none; draw some first")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"a picture must be uint8 of shape (height, width, 3), got {image.dtype} of shape {image.shape}; "
                "convert it to RGB first"
            )
        if image.shape != images[0].shape:
            raise InputError(
                f"pictures must have one size, got {images[0].shape[:2]} and {image.shape[:2]}; use match_size first"
            )
    height, width = images[0].shape[:2]
    if not 1 <= tiles <= min(height, width):
        raise InputError(f"tiles must be within 1 and the shorter side of {(height, width)}, got {tiles}")
    return height, width
