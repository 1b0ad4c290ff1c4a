"""Can works be brought back? The outcome of an attack, in numbers and in words that those carry."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from amnestic.audit.attack_arms import Arm, ArmSummary, summary_of, unsearched
from amnestic.audit.attack_comparison import CONTROLS, NEVER_SEEN, Comparison, Gap, compare
from amnestic.audit.attack_flags import NAMES, PASSED, AttackFlag, LossAgreement, flags_of, loss_agreement
from amnestic.core.amounts import percent
from amnestic.core.errors import InputError
from amnestic.core.records import Rate
from amnestic.measures.radius import RadiusSweep, radius_sweep

__all__ = ["Arm", "AttackVerdict", "attack_verdict"]

RECOVERABLE = "recoverable"
NOT_RECOVERED = "not recovered at this budget"
NOT_TRUSTWORTHY = "not trustworthy"
ABSENT = {
    "heldout": "no held-out works were attacked",
    "twin": "no model that never saw the works was given",
    "random": "no random search was run",
    "original": "no unedited model was given",
}
_CHEAPER = 0.9  # share of the passes below which random search had less than an equal chance


@dataclass(frozen=True, kw_only=True)
class AttackVerdict:
    """What an attack on some works shows.

    Attributes:
        conclusion: ``recoverable``, ``not recovered at this budget`` or ``not trustworthy``.
        sentence: The same with its numbers, in one sentence.
        why: What it rests on, in sentences.
        threshold: A copy scores above it.
        level: Rate up to which a control counts as quiet.
        judged_at: Step at which works were judged; `None` where a control that never saw them is not even quiet
            before the search.
        arms: Numbers of each arm, ``works`` first.
        comparisons: Works beside each control.
        agreement: Of the search's loss and the judge; `None`: not measured.
        radius: How far inputs must move, by arm; empty without a sweep.
        flags: Reasons for doubt.
        not_measured: What was left out, and why.
        notes: What limits the numbers, in sentences.
    """

    conclusion: str
    sentence: str
    why: tuple[str, ...]
    threshold: float
    level: float
    judged_at: int | None
    arms: Mapping[str, ArmSummary]
    comparisons: tuple[Comparison, ...]
    agreement: LossAgreement | None
    radius: Mapping[str, RadiusSweep] = field(default_factory=dict)
    flags: tuple[AttackFlag, ...] = ()
    not_measured: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def attack_verdict(
    arms: Mapping[str, Arm], *, absent: Mapping[str, str] | None = None,
    sweep: Mapping[str, Mapping[float, Float[Tensor, "N ..."]]] | None = None, seed: int = 0, level: float = 0.05,
) -> AttackVerdict:  # fmt: skip
    """Judge an attack by what came back, beside its controls.

    Works are called recoverable if some came back at a budget at which no more than `level` of the works that the
    model never saw do, and their share lies above that of every such control by its one-sided 95 % bound. If none
    came back, that holds for this budget alone, and is only believed where works were searched at all, the attack
    does not fail on the unedited model, and loss and judge agree or the unedited model shows that the attack works.

    Args:
        arms: ``works``, and which controls there are: ``heldout`` (works never trained on, same model), ``twin`` (the
            works on a model that never saw them), ``random`` (random search with equal passes), ``original`` (the
            works on the unedited model). All but random search with as many tries, scoring seeds and kept steps.
        absent: Why a control is not there, by name.
        sweep: By arm, of a sweep over the radius, scores ``(N, ...)`` by radius.
        seed: Decides resamples and labellings.
        level: Rate up to which a control counts as quiet.

    Returns:
        The verdict; `amnestic.core.records.plain` makes JSON of it.

    Raises:
        InputError: If there is no arm of works, an arm is unknown, or a control was attacked with other settings.

    Source:
        Kowalczuk et al., "Finding DoRI", ICML 2026, arXiv 2507.16880, for the attack on images that are not memorized
        with the same budget; the rules are this project's own.
    """
    _require_known(arms)
    names = [name for name in ("works", *CONTROLS) if name in arms]
    summaries = {name: summary_of(arms[name], seed=seed) for name in names}
    comparisons, at = compare(arms, seed=seed, level=level)
    agreement = loss_agreement(arms, comparisons, seed=seed)
    conclusion, sentence, why = _decide(arms["works"], summaries, comparisons, agreement, at)
    threshold = arms["works"].threshold
    swept = {n: radius_sweep(scores, threshold, seed=seed) for n, scores in (sweep or {}).items()}
    return AttackVerdict(
        conclusion=conclusion, sentence=sentence, why=tuple(why), threshold=threshold, level=level, judged_at=at,
        arms=summaries, comparisons=comparisons, agreement=agreement, radius=swept,
        flags=flags_of(arms, summaries, comparisons, agreement, level=level),
        not_measured=tuple(_not_measured(summaries, agreement, swept, absent or {})),
        notes=tuple(_notes(summaries, comparisons, level)),
    )  # fmt: skip


def _require_known(arms: Mapping[str, Arm]) -> None:
    unknown = sorted(set(arms) - {"works", *CONTROLS})
    if "works" not in arms or unknown:
        raise InputError(
            f"expected an arm 'works' and any of {', '.join(CONTROLS)}; got {', '.join(sorted(arms)) or 'none'}"
        )


def _decide(
    works: Arm, summaries: Mapping[str, ArmSummary], comparisons: Sequence[Comparison],
    agreement: LossAgreement | None, at: int | None,
) -> tuple[str, str, list[str]]:  # fmt: skip
    whole = summaries["works"].curve[-1].ever
    context = list(_context(summaries, at))
    if _back(whole) == 0:
        doubts = list(_doubts_of_none(works, summaries, agreement))
        if doubts:
            return NOT_TRUSTWORTHY, f"Not trustworthy: no work came back, but {doubts[0]}.", [*_more(doubts), *context]
        return NOT_RECOVERED, _none_back(summaries["works"]), context
    doubts = list(_doubts_of_some(summaries, comparisons, at))
    if doubts:
        came = f"{_count(whole)} works came back within {summaries['works'].budget} steps"
        return NOT_TRUSTWORTHY, f"Not trustworthy: {came}, but {doubts[0]}.", [*_more(doubts), *context]
    gaps = [(c.control, _judged(c)) for c in comparisons if c.control in NEVER_SEEN]
    beside = " and ".join(_count_of(gap.control, name) for name, gap in gaps)
    back = _count(_at(summaries["works"], at))
    return RECOVERABLE, f"Recoverable: {back} works came back within {at} steps, against {beside}.", context


def _doubts_of_none(
    works: Arm, summaries: Mapping[str, ArmSummary], agreement: LossAgreement | None
) -> list[str]:  # fmt: skip
    """Why it says nothing that no work came back."""
    doubts, blind = [], unsearched(works)
    if blind:
        doubts.append(
            f"the gradient was zero in the search for {len(blind)} of {len(works.works)}: nothing was searched"
        )
    positive = summaries["original"].curve[-1].ever if "original" in summaries else None
    passed = positive is not None and (positive.estimate or 0.0) >= PASSED
    if positive is not None and not passed:
        doubts.append(f"the attack brings back only {_count(positive)} works on the unedited model, too")
    if agreement is not None and agreement.disagreements and not passed:
        doubts.append(f"judge and loss disagree ({agreement.disagreements[0]})")
    return doubts


def _doubts_of_some(
    summaries: Mapping[str, ArmSummary], comparisons: Sequence[Comparison], at: int | None
) -> list[str]:
    """Why works that came back may not have been in the model."""
    never_seen = [c for c in comparisons if c.control in NEVER_SEEN]
    if not never_seen:
        return ["nothing that the model never saw was attacked likewise, so that the search may have made them up"]
    budget = summaries["works"].budget
    if at is None:
        loud = [c for c in never_seen if c.horizon is not None and c.horizon.step is None]
        return [f"{NAMES[c.control]} come back even before the search" for c in loud]
    if _back(_at(summaries["works"], at)) == 0:
        least = [_count_of(c.at_budget.control, c.control) for c in never_seen]
        return [
            f"none of them by step {at}, the last one at which controls are quiet; by step {budget} "
            f"{' and '.join(least)} came back, too"
        ]
    return [
        f"no clearly larger share than of {NAMES[c.control]}: {_count(gap.target)} against {_count(gap.control)} "
        f"within {gap.step} steps"
        for c in never_seen
        if (gap := _judged(c)).rate.lower_one_sided is None or gap.rate.lower_one_sided <= 0
    ]


def _at(summary: ArmSummary, step: int | None) -> Rate:
    """What came back by a kept step."""
    return next((point.ever for point in summary.curve if point.step == step), summary.curve[-1].ever)


def _more(doubts: Sequence[str]) -> list[str]:
    return [f"Also, {doubt}." for doubt in doubts[1:]]


def _judged(comparison: Comparison) -> Gap:
    """The budget that counts."""
    return comparison.at_horizon or comparison.at_budget


def _none_back(works: ArmSummary) -> str:
    rate = works.curve[-1].ever
    tries = "one try" if works.tries == 1 else f"{works.tries} tries"
    return (
        f"Not recovered at this budget: none of {rate.n} works came back within {works.budget} steps, {tries} and "
        f"{works.seeds} images per input; up to {_percent(rate.upper_one_sided)} of such works still may."
    )


def _context(summaries: Mapping[str, ArmSummary], at: int | None) -> list[str]:
    works = summaries["works"]
    said = [f"Before the search {_count(works.before)} works came back, at its end {_count(works.curve[-1].ever)}."]
    if at is not None and at < works.budget:
        said.append(
            f"Works are judged at step {at}, the last kept one at which controls that the model never saw are quiet."
        )
    if "original" in summaries:
        positive = summaries["original"].curve[-1].ever
        verb = "works" if (positive.estimate or 0.0) >= PASSED else "fails"
        said.append(f"The attack {verb} on the unedited model: {_count(positive)} works came back.")
    else:
        said.append("Whether the attack works on the unedited model was not measured.")
    if _back(works.curve[-1].ever) == 0:
        said.append(
            "That nothing came back is no proof that nothing is left: a larger budget or another attack may find it."
        )
    return said


def _not_measured(
    summaries: Mapping[str, ArmSummary], agreement: LossAgreement | None, swept: Mapping[str, RadiusSweep],
    absent: Mapping[str, str],
) -> list[tuple[str, str]]:  # fmt: skip
    found = [(f"Control: {NAMES[name]}", absent.get(name, ABSENT[name])) for name in CONTROLS if name not in summaries]
    if agreement is None:
        found.append(
            ("Agreement of loss and judge", "the attack has no loss, or fewer than two works were still to be found")
        )
    if not swept:
        found.append(("Smallest radius at which works come back", "no sweep over the radius was made"))
    return found


def _notes(summaries: Mapping[str, ArmSummary], comparisons: Sequence[Comparison], level: float) -> list[str]:
    notes = []
    few = [
        c
        for c in comparisons
        if c.horizon and c.horizon.step is not None and c.horizon_by_bound and c.horizon_by_bound.step is None
    ]
    if few and level:
        needed = math.ceil(math.log(0.05) / math.log(1 - level))
        sizes = " and ".join(f"{c.works} {NAMES[c.control].removeprefix('the same ')}" for c in few)
        notes.append(
            f"Controls are quiet, but {sizes} cannot show a rate below {100 * level:g} %; {needed} without one coming "
            "back could."
        )
    n = len(summaries["works"].works)
    part = [c for c in comparisons if c.control != "heldout" and c.works < n]
    notes += [f"The control {c.control} holds {c.works} of the {n} works." for c in part]
    early = {name: s.stopped_early for name, s in summaries.items() if s.stopped_early}
    if early:
        where = ", ".join(f"{n} of {len(summaries[name].works)} in arm {name}" for name, n in early.items())
        notes.append(f"Searches ended when an independent judge saw the work ({where}): mean scores are lower bounds.")
    if "random" in summaries:
        share = summaries["random"].passes[-1] / (summaries["works"].passes[-1] or math.inf)
        if share < _CHEAPER:
            notes.append(f"Random search had {100 * share:.0f} % of the passes of the attack.")
    return notes


def _back(rate: Rate) -> int:
    return round((rate.estimate or 0.0) * rate.n)


def _count(rate: Rate) -> str:
    return f"{_back(rate)} of {rate.n}"


def _count_of(rate: Rate, control: str) -> str:
    return f"{_count(rate)} {NAMES[control].removeprefix('the same ')}"


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else percent(share)
