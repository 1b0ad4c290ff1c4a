"""Is memorization local in the weights? Units located by single embeddings, and how far they agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Localizer, Located
from amnestic.core.records import Prompt
from amnestic.core.spoken import Spoken
from amnestic.core.target import Target
from amnestic.core.units import Site, Units

ALL_LAYERS = "all layers"
KINDS = (
    "within_found", "across_found", "within_memorized", "found_with_memorized", "within_natural", "within_heldout",
)  # fmt: skip
_COLUMNS = 2**20  # units counted at once: below 2^24, so that sums of ones stay exact in float32

Counts = Float[np.ndarray, "M M"]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The units that one input chose.

    Attributes:
        group: ``found`` (a search ended there and it brings a memorized image), ``memorized`` (the prompt of a
            memorized work), ``natural`` (an ordinary prompt) or ``heldout`` (a search for an image that the model
            never saw ended there).
        work: Which image was searched for; empty for prompts.
        packed: Masks, eight units in a byte, by name of the site, as `Units.packed` gives them.
    """

    group: str
    work: str
    packed: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """IoU of the pairs of one kind in one layer.

    Attributes:
        mean: Mean over pairs, two empty masks counted by the convention; `None` where nothing is left.
        mean_of_chosen: Mean over pairs with at least one unit; `None` without such a pair.
        empty_share: Share of pairs in which both chose nothing, in [0, 1]; `None` without a pair.
        n: Pairs, the empty ones among them.
    """

    mean: float | None
    mean_of_chosen: float | None
    empty_share: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class LayerAgreement:
    """How far units agree in one layer, or in all of them together.

    Attributes:
        site: Name of the layer, or `ALL_LAYERS`.
        stage: ``down``, ``mid`` or ``up``; empty for all layers.
        n_units: Units there are.
        kinds: By kind of pair, see `KINDS`.
    """

    site: str
    stage: str
    n_units: int
    kinds: Mapping[str, Agreement]


def standing_for(name: str, cond: Float[Tensor, "L W"]) -> tuple[Prompt, dict[str, Tensor]]:
    """A prompt that stands for a conditioning, and what `Spoken` has to be told of it."""
    text = f"<conditioning {name}>"
    return Prompt(id=name, prompt=text), {text: cond}


def located_by(method: Localizer, target: Target, conds: Mapping[str, Float[Tensor, "L W"]], case: Case) -> Located:
    """What a localizer finds when conditionings take the place of the memorized prompts.

    Args:
        method: The localizer, which need not know of conditionings.
        target: The model.
        conds: Conditionings by a name that is no prompt's.
        case: Controls, sampling and seeds; its memorized prompts are not used.

    Returns:
        As for prompts.

    Raises:
        InputError: If a conditioning does not fit the model, or none is given.
    """
    prompts, said = [], dict[str, Tensor]()
    for name, cond in conds.items():
        prompt, told = standing_for(name, cond)
        prompts.append(prompt)
        said |= told
    spoken = cast(Target, Spoken(target, said))
    return method(spoken, replace(case, memorized=tuple(prompts)))


def calibrated(method: Localizer, target: Target, case: Case) -> Localizer:
    """The localizer with the threshold that it calibrates on the controls, so that it does so once.

    Args:
        method: A localizer; one without a setting ``threshold``, or with a given one, stays as it is.
        target: The model.
        case: With at least one memorized prompt, and controls.

    Returns:
        A localizer that finds the same with these controls.
    """
    if getattr(method, "threshold", 0.0) is not None:
        return method
    found = method(target, replace(case, memorized=case.memorized[:1]))
    return replace(method, threshold=found.notes["threshold"])  # type: ignore[call-arg]


def united(parts: Iterable[Units], *, model: str) -> Units:
    """Units that at least one of several choices holds.

    Args:
        parts: At least one, over the same sites.
        model: Digest of the model that the union is for; parts may come from edited copies of it.

    Raises:
        InputError: If there is none, or the sites differ.
    """
    given = list(parts)
    if not given:
        raise InputError("expected units to unite, got none; locate first")
    if any(one.sites != given[0].sites for one in given):
        raise InputError("expected units over the same sites, got others; locate all of them with one method")
    names = [site.name for site in given[0].sites]
    masks = {name: torch.stack([one.masks[name] for one in given]).any(dim=0) for name in names}
    return Units(sites=given[0].sites, masks=masks, model=model)


def weight_agreement(
    sites: Sequence[Site], chosen: Sequence[Chosen], *, empty: float | None = 1.0
) -> tuple[LayerAgreement, ...]:
    """IoU of the units that single inputs chose, layer by layer and over all layers together.

    Formula: ``|A and B| / |A or B|``, mean over the pairs of each kind.

    Args:
        sites: The sites that were searched.
        chosen: What M inputs chose.
        empty: What two empty masks count: 1 in the paper, 0 in the code of ConceptPrune, `None` leaves such pairs out.

    Returns:
        A row per site and one for all of them. The mean over pairs depends on `empty` wherever `empty_share` is not
        0; `mean_of_chosen` does not. That within one image agreement is high says nothing by itself: compare
        ``within_found`` with ``across_found`` and ``within_heldout``.

    Raises:
        InputError: If a mask is missing or of another length.

    Source:
        Kowalczuk et al., "Finding DoRI", ICML 2026, arXiv 2507.16880.
    """
    n = len(chosen)
    pairs = _pairs(chosen)
    shared, sizes = np.zeros((n, n)), np.zeros(n)
    found = []
    for site in sites:
        here = _shared(site, chosen)
        shared, sizes = shared + here, sizes + here.diagonal()
        found.append(_layer(site.name, site.stage, site.size, here, here.diagonal(), pairs, empty))
    total = sum(site.size for site in sites)
    return (*found, _layer(ALL_LAYERS, "", total, shared, sizes, pairs, empty))


def kind_of(one: Chosen, other: Chosen) -> str | None:
    """Which of `KINDS` a pair is; `None` for pairs that nobody asks about."""
    groups = {one.group, other.group}
    if groups == {"found"}:
        return "within_found" if one.work == other.work else "across_found"
    if groups == {"heldout"}:
        return "within_heldout" if one.work == other.work else None
    if groups == {"found", "memorized"}:
        return "found_with_memorized"
    return f"within_{one.group}" if len(groups) == 1 else None


def _pairs(chosen: Sequence[Chosen]) -> dict[str, tuple[list[int], list[int]]]:
    pairs: dict[str, tuple[list[int], list[int]]] = {kind: ([], []) for kind in KINDS}
    for i, one in enumerate(chosen):
        for j in range(i + 1, len(chosen)):
            kind = kind_of(one, chosen[j])
            if kind is not None:
                pairs[kind][0].append(i)
                pairs[kind][1].append(j)
    return pairs


def _shared(site: Site, chosen: Sequence[Chosen]) -> Counts:
    """How many units of a site every two inputs both chose; on the diagonal how many each chose."""
    for one in chosen:
        bits = one.packed.get(site.name)
        if bits is None or len(bits) != -(-site.size // 8):
            raise InputError(f"expected a whole mask of {site.name}, got none; locate again")
    counts = np.zeros((len(chosen), len(chosen)))
    if not chosen:
        return counts
    packed = np.stack([one.packed[site.name].numpy() for one in chosen])
    for start in range(0, packed.shape[1], _COLUMNS // 8):
        part = torch.from_numpy(np.unpackbits(packed[:, start : start + _COLUMNS // 8], axis=1)).float()
        counts += (part @ part.T).double().numpy()
    return counts


def _layer(
    name: str, stage: str, n_units: int, shared: Counts, sizes: np.ndarray,
    pairs: Mapping[str, tuple[list[int], list[int]]], empty: float | None,
) -> LayerAgreement:  # fmt: skip
    return LayerAgreement(
        site=name, stage=stage, n_units=n_units,
        kinds={kind: _agreement(shared[i, j], (sizes[i] + sizes[j]) - shared[i, j], empty)
               for kind, (i, j) in pairs.items()},
    )  # fmt: skip


def _agreement(both: np.ndarray, either: np.ndarray, empty: float | None) -> Agreement:
    n, there = len(both), either > 0
    if not n:
        return Agreement(mean=None, mean_of_chosen=None, empty_share=None, n=0)
    values = both[there] / either[there]
    known = float(values.mean()) if len(values) else None
    missing = n - len(values)
    if empty is None:
        mean = known
    else:
        mean = float((values.sum() + empty * missing) / n)
    return Agreement(mean=mean, mean_of_chosen=known, empty_share=missing / n, n=n)
