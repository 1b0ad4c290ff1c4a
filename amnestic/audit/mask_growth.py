"""How a mask comes about: over layers and steps, with more prompts, and on each rung of a ladder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.audit.prompt_sets import work_of
from amnestic.audit.sharing import all_units
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Localizer, Located
from amnestic.core.records import Prompt
from amnestic.core.target import Target
from amnestic.core.units import Units
from amnestic.measures.overlap import iou
from amnestic.measures.subspace import subspace_mask

NORMS = "wanda-subspace"  # the method that keeps norms per step
Row = dict[str, float | int | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepShares:
    """Which share of each layer's weights every denoising step chooses.

    Attributes:
        sites: Names of the layers that were searched, in order of computation.
        stages: ``down``, ``mid`` or ``up`` of each.
        shares: Weights chosen at each of T steps, in [0, 1]; step 0 starts from pure noise.
        united: Weights chosen at this step or before; the last column is the mask of the finding.
    """

    sites: tuple[str, ...]
    stages: tuple[str, ...]
    shares: Float[Tensor, "K T"]
    united: Float[Tensor, "K T"]


def step_shares(located: Located, target: Target, *, r: float | None = None) -> StepShares:
    """Share of weights chosen in each of K layers at each of T steps, from the norms that a finding keeps.

    Formula: mean over weights of ``top_{int(r U)}(|W| A_t) and A_t > B_t``.

    Args:
        located: What ``wanda-subspace`` found.
        target: The model in which it was found.
        r: Share of each output row, in (0, 1]; `None` for that of the finding.

    Returns:
        At most `r`, lower where the contrast uses a unit more; compare within one `r`.

    Raises:
        InputError: If another method or another model made the finding, or its norms are not there.

    Source:
        Chavhan et al., arXiv 2406.18566, 2024; masks per layer and step as in the authors' ConceptPrune code.
    """
    _require_norms(located, target)
    share = float(located.made_by.parameters["r"]) if r is None else r
    if not 0 < share <= 1:
        raise InputError(f"expected r within (0, 1], got {share}; published is 0.01")
    sites = [s for s in located.units.sites if f"memorized.{s.name}" in located.tensors]
    shares, united = [], []
    for site in sites:
        weight = target.weight(site).cpu()
        ours, theirs = located.tensors[f"memorized.{site.name}"], located.tensors[f"contrast.{site.name}"]
        so_far, single, both = torch.zeros(weight.shape, dtype=torch.bool), [], []
        for a, b in zip(ours, theirs, strict=True):
            mask = subspace_mask(weight, a[None], b[None], r=share)
            so_far |= mask
            single.append(float(mask.double().mean()))
            both.append(float(so_far.double().mean()))
        shares.append(single)
        united.append(both)
    return StepShares(
        sites=tuple(s.name for s in sites), stages=tuple(s.stage for s in sites), shares=torch.tensor(shares),
        united=torch.tensor(united),
    )  # fmt: skip


def mask_growth(localizer: Localizer, target: Target, case: Case, sizes: Sequence[int]) -> list[Row]:
    """How the mask changes with the number of memorized prompts.

    Args:
        localizer: What locates.
        target: The model.
        case: Its memorized prompts in the order in which they are added; shuffle a list that is sorted.
        sizes: How many of the first prompts, each within 1 and all of them.

    Returns:
        Rows ``{n_prompts, share, iou_with_full}`` with rising numbers: share of all units of the sites, and IoU over
        all layers with the mask of all prompts, `None` if both are empty. It rises by itself, since the prompts are
        among all prompts; how fast is the finding.

    Raises:
        InputError: If a size is out of range, or whatever the localizer raises.
    """
    n = len(case.memorized)
    if not sizes or not 1 <= min(sizes) <= max(sizes) <= n:
        raise InputError(f"expected numbers of prompts within 1 and {n}, got {list(sizes)}; leave the others out")
    full = localizer(target, case).units
    rows: list[Row] = []
    for size in sorted(set(sizes)):
        part = full if size == n else _located_on(localizer, target, case, case.memorized[:size])
        rows.append({"n_prompts": size, "share": part.share, "iou_with_full": iou(all_units(part), all_units(full))})
    return rows


def masks_by_rung(
    localizer: Localizer, target: Target, prompts_by_rung: Mapping[int, Sequence[Prompt]], case: Case
) -> list[Row]:
    """How the mask changes with how often works were seen: equally many prompts of every rung against the top one.

    Args:
        localizer: What locates.
        target: The model.
        prompts_by_rung: Memorized prompts of each rung; as many as the smallest rung has are taken of each.
        case: Everything else that the localizer is given.

    Returns:
        Rows ``{rung, n_prompts, share, iou_with_top}``, lowest rung first: share of all units of the sites, and IoU
        over all layers with the mask of the top rung's first prompts. On the top rung itself it is the IoU with the
        mask of as many prompts of other works of that rung, what to compare the lower ones with; `None` when there
        are not so many.

    Raises:
        InputError: If there is no rung or one without prompts, or whatever the localizer raises.
    """
    if not prompts_by_rung or not all(prompts_by_rung.values()):
        empty = [rung for rung, prompts in prompts_by_rung.items() if not prompts] or "no rung at all"
        raise InputError(f"expected prompts on every rung, got none on {empty}; leave out rungs without prompts")
    n, top = min(map(len, prompts_by_rung.values())), max(prompts_by_rung)
    first = tuple(prompts_by_rung[top][:n])
    reference = _located_on(localizer, target, case, first)
    rows: list[Row] = []
    for rung, prompts in sorted(prompts_by_rung.items()):
        compared = tuple(prompts[:n]) if rung < top else _of_other_works(prompts, first)
        units = _located_on(localizer, target, case, compared) if len(compared) == n else None
        shared = None if units is None else iou(all_units(units), all_units(reference))
        share = reference.share if units is None or rung == top else units.share
        rows.append({"rung": rung, "n_prompts": n, "share": share, "iou_with_top": shared})
    return rows


def _located_on(localizer: Localizer, target: Target, case: Case, memorized: tuple[Prompt, ...]) -> Units:
    return localizer(target, replace(case, memorized=memorized)).units


def _of_other_works(prompts: Sequence[Prompt], first: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """As many prompts as were first, of works that those are not of; fewer if there are no more."""
    taken = {work_of(p) for p in first}
    return tuple(p for p in prompts if work_of(p) not in taken)[: len(first)]


def _require_norms(located: Located, target: Target) -> None:
    if located.made_by.name != NORMS:
        raise InputError(
            f"expected a finding of {NORMS}, which keeps norms per step, got one of {located.made_by.name}; there is "
            f"no mask per step to show: locate with {NORMS}"
        )
    if located.units.model != target.ident.digest:
        raise InputError(
            f"the finding was made in model {located.units.model[:12]}, this is {target.ident.name} "
            f"({target.ident.digest[:12]}); locate again on this model"
        )
    names = {name.split(".", 1)[1] for name in located.tensors if name.startswith("memorized.")}
    if not names or not all(f"contrast.{name}" in located.tensors for name in names):
        raise InputError(f"the finding of {NORMS} holds no norms of memorized prompts and contrast; locate again")
