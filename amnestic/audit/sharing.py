"""Do memorized works share a subspace? Masks of disjoint sets of prompts, compared layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from amnestic.audit.set_pairs import (
    KINDS,
    Matrix,
    Pairs,
    chance_in_layer,
    chance_over_layers,
    mean_of,
    pairs_by_kind,
)
from amnestic.core.errors import InputError
from amnestic.core.units import Units
from amnestic.measures.overlap import PermutationTest, holm, pairwise_iou, permutation_p

EMPTY_PAIRS = (
    "Two empty masks have no IoU: such pairs are left out of means and tests, neither as 0 nor as 1, and their share "
    "is reported; an empty mask and another one have IoU 0."
)
ALL_LAYERS, MEAN_OVER_LAYERS = "all layers", "mean over layers"
LEVEL = 0.05
_SETS, _PROMPTS = 5, 10  # the least that the claim is tested with

Test = Callable[[Matrix], PermutationTest]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlap of masks over some units.

    Attributes:
        n_units: Units there are.
        memorized: Units chosen by each memorized set.
        controls: Units chosen by each control set.
        within_memorized: Pairs of memorized sets.
        with_controls: Pairs of a memorized and a control set.
        within_controls: Pairs of control sets.
        test: Whether memorized sets overlap more with each other than with controls.
    """

    n_units: int
    memorized: tuple[int, ...]
    controls: tuple[int, ...]
    within_memorized: Pairs
    with_controls: Pairs
    within_controls: Pairs
    test: PermutationTest


@dataclass(frozen=True, kw_only=True)
class LayerOverlap(Overlap):
    """Overlap of masks in one layer.

    Attributes:
        site: Name of the layer.
        stage: ``down``, ``mid`` or ``up``.
        p_adjusted: P-value of the test, Holm-adjusted over the layers that have one; `None` without one.
    """

    site: str
    stage: str
    p_adjusted: float | None


@dataclass(frozen=True, kw_only=True)
class SharedSubspace:
    """What masks of several sets have in common.

    Attributes:
        layers: Each layer by itself, in order of computation.
        whole: All layers together, where chance masks have as many units of every layer; its test stands by itself.
        layer_means: Means over layers of the IoU of each kind of pair, and of ``random`` and ``random_with_controls``.
        share_memorized: Chosen units of each memorized set as a share of all units of the sites.
        share_controls: The same of each control set.
        matrix: IoU over all layers of every two sets, memorized ones first; `None` where both are empty and on the
            diagonal.
        convention: What is done with pairs of empty masks.
        notes: What limits these numbers, in sentences.
    """

    layers: tuple[LayerOverlap, ...]
    whole: Overlap
    layer_means: Mapping[str, float | None]
    share_memorized: tuple[float, ...]
    share_controls: tuple[float, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    convention: str
    notes: tuple[str, ...]


def shared_subspace(
    memorized: Sequence[Units], controls: Sequence[Units], *, seed: int, n_permutations: int = 20_000,
    n_prompts: int | None = None,
) -> SharedSubspace:  # fmt: skip
    """Whether masks of memorized sets overlap more with each other than with those of other prompts and of chance.

    Formula: per layer, IoU of every two masks and its means by kind of pair; `permutation_p` over the labels of the
    sets, Holm-adjusted over layers.

    Args:
        memorized: What one localizer found on each of at least two disjoint sets of memorized prompts.
        controls: What it found with the same settings on each of at least two disjoint sets of as many prompts that
            are not memorized, put in the place of the memorized ones.
        seed: Decides the random labellings.
        n_permutations: Up to so many labellings all are taken, otherwise so many random ones.
        n_prompts: Prompts per set, if known; only for the notes.

    Returns:
        Numbers per layer and over all. Chance masks choose every unit of a layer equally often; real masks of any
        prompts overlap more, so what speaks for a shared subspace is the difference to pairs with controls. Where
        sets choose unequally many units, look at each IoU beside its own `random`.

    Raises:
        InputError: If there are fewer than two sets of a kind, or sets differ in model or sites.

    Source:
        Chavhan et al., "Memorized Images in Diffusion Models share a Subspace that can be Located and Deleted",
        arXiv 2406.18566, 2024, whose claim this tests. IoU of masks as in the authors' notebook, but without the zero
        diagonal in its means.
    """
    _require_comparable(memorized, controls)
    sets, sites = [*memorized, *controls], memorized[0].sites
    labels = [i < len(memorized) for i in range(len(sets))]

    def test(ious: Matrix) -> PermutationTest:
        return permutation_p(ious, labels, seed=seed, n_permutations=n_permutations)

    counts = np.array([[int(u.masks[s.name].sum()) for u in sets] for s in sites])
    n_units = np.array([site.size for site in sites])
    found = []
    for site, sizes in zip(sites, counts, strict=True):
        ious = pairwise_iou([u.masks[site.name] for u in sets]).matrix
        found.append(_fields(ious, chance_in_layer(sizes, site.size), sizes, site.size, len(memorized), test))
    adjusted = holm([f["test"].p_value for f in found])
    layers = tuple(
        LayerOverlap(site=s.name, stage=s.stage, p_adjusted=p, **f)
        for s, p, f in zip(sites, adjusted, found, strict=True)
    )
    ious, chance = pairwise_iou([all_units(u) for u in sets]).matrix, chance_over_layers(counts, n_units)
    return SharedSubspace(
        layers=layers, convention=EMPTY_PAIRS, layer_means=_layer_means(layers), notes=_notes(layers, n_prompts),
        whole=Overlap(**_fields(ious, chance, counts.sum(0), int(n_units.sum()), len(memorized), test)),
        share_memorized=tuple(u.share for u in memorized), share_controls=tuple(u.share for u in controls),
        matrix=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in ious),
    )  # fmt: skip


def sharing_table(shared: SharedSubspace) -> list[dict[str, Any]]:
    """The comparison as plain rows: one per layer, then all layers together, then the mean over layers.

    Args:
        shared: What was compared.

    Returns:
        Rows with ``site stage n_units``, the mean share of units chosen per set ``share_memorized share_controls``,
        mean IoUs ``within_memorized with_controls within_controls``, what chance gives ``random`` (memorized pairs)
        and ``random_with_controls``, ``empty_share`` of the memorized pairs and ``empty_share_with_controls``,
        ``statistic p_value p_adjusted n_permutations exact``. `None` where undefined.
    """
    rows = [
        *(_row(layer, layer.site, layer.stage, layer.p_adjusted) for layer in shared.layers),
        _row(shared.whole, ALL_LAYERS, "", None),
    ]
    mean = dict.fromkeys(rows[0]) | {"site": MEAN_OVER_LAYERS, "stage": ""}
    return [*rows, mean | dict(shared.layer_means)]


def all_units(units: Units) -> Bool[Tensor, "U"]:
    """The masks of all sites one after the other, as one mask."""
    return torch.cat([units.masks[site.name].flatten() for site in units.sites])


def _require_comparable(memorized: Sequence[Units], controls: Sequence[Units]) -> None:
    if min(len(memorized), len(controls)) < 2:
        raise InputError(
            f"expected masks of at least two memorized and two control sets, got {len(memorized)} and "
            f"{len(controls)}; make more disjoint sets, five of each if there are works enough"
        )
    first = memorized[0]
    for other in [*memorized, *controls]:
        if other.model != first.model:
            raise InputError(
                f"expected masks of one model, got {first.model[:12]} and {other.model[:12]}; locate all sets in one"
            )
        if other.sites != first.sites:
            raise InputError(
                f"expected masks over one list of sites, got one of {len(first.sites)} and another of "
                f"{len(other.sites)}; locate all sets with one method and the same settings"
            )


def _fields(
    ious: Matrix, chance: Matrix, sizes: Int[np.ndarray, "M"], n_units: int, n_memorized: int, test: Test
) -> dict[str, Any]:
    """What an `Overlap` consists of."""
    return {
        "n_units": n_units, "memorized": tuple(sizes[:n_memorized].tolist()), "test": test(ious),
        "controls": tuple(sizes[n_memorized:].tolist()), **pairs_by_kind(ious, chance, n_memorized),
    }  # fmt: skip


def _layer_means(layers: Sequence[LayerOverlap]) -> dict[str, float | None]:
    ious = {kind: mean_of(getattr(layer, kind).iou for layer in layers) for kind in KINDS}
    return ious | {
        "random": mean_of(layer.within_memorized.random for layer in layers),
        "random_with_controls": mean_of(layer.with_controls.random for layer in layers),
    }


def _notes(layers: Sequence[LayerOverlap], n_prompts: int | None) -> tuple[str, ...]:
    notes = []
    for kind, sizes in (("memorized", layers[0].memorized), ("control", layers[0].controls)):
        if len(sizes) < _SETS:
            notes.append(f"Only {len(sizes)} {kind} sets; at least {_SETS} are asked for.")
    if n_prompts is not None and n_prompts < _PROMPTS:
        notes.append(f"Only {n_prompts} prompts per set; at least {_PROMPTS} works are asked for.")
    tested = [layer.test for layer in layers if layer.test.p_value is not None]
    least = max((1 / (t.n_permutations + (not t.exact)) for t in tested), default=0.0)
    if least * len(tested) >= LEVEL:
        notes.append(
            f"With so few sets or permutations no p-value can be below {least:.2g}, and none that is corrected over "
            f"{len(tested)} layers below {min(least * len(tested), 1):.2g}, so that no single layer can be found at "
            f"the level of {LEVEL}; make more sets."
        )
    if len(tested) < len(layers):
        notes.append(f"{len(layers) - len(tested)} of {len(layers)} layers have no p-value: too many masks are empty.")
    return tuple(notes)


def _row(overlap: Overlap, site: str, stage: str, p_adjusted: float | None) -> dict[str, Any]:
    n, test = overlap.n_units, overlap.test
    return {
        "site": site, "stage": stage, "n_units": n,
        "share_memorized": float(np.mean(overlap.memorized)) / n,
        "share_controls": float(np.mean(overlap.controls)) / n,
        **{kind: getattr(overlap, kind).iou for kind in KINDS},
        "random": overlap.within_memorized.random, "random_with_controls": overlap.with_controls.random,
        "empty_share": overlap.within_memorized.empty_share,
        "empty_share_with_controls": overlap.with_controls.empty_share,
        "statistic": test.statistic, "p_value": test.p_value, "p_adjusted": p_adjusted,
        "n_permutations": test.n_permutations, "exact": test.exact,
    }  # fmt: skip
