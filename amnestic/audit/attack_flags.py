"""What speaks against believing an attack's outcome, and what to do about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr

from amnestic.audit.attack_arms import Arm, ArmSummary, loss_ends, shared_places, unsearched
from amnestic.audit.attack_comparison import NEVER_SEEN, Comparison
from amnestic.measures.excess import Excess, excess_mean

CONTROL_RECOVERS = "control recovers too"
ZERO_GRADIENT = "zero gradient"
DISAGREE = "judge and loss disagree"
BEYOND = "budget beyond the false-positive horizon"
POSITIVE_FAILS = "positive control fails"
NAMES = {
    "works": "the works",
    "heldout": "works never trained on",
    "twin": "the same works on a model that never saw them",
    "random": "the works under random search",
    "original": "the works on the unedited model",
}
PASSED = 0.5  # of the works that the positive control must bring back
_MOVED, _LEVEL = 0.05, 0.05  # least change of a loss (relative) or a score that counts


@dataclass(frozen=True, kw_only=True)
class AttackFlag:
    """One reason for doubt.

    Attributes:
        name: What it is called.
        because: The numbers that raised it.
        meaning: What it says about the outcome.
        remedy: What to do.
    """

    name: str
    because: str
    meaning: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class LossAgreement:
    """Whether the search's own loss and the independent judge tell the same story.

    Attributes:
        works: Works not back before the search, which are those looked at.
        rank_correlation: Spearman's, over works, of the relative fall of the loss with the gain in score; `None` where
            either is the same for all.
        p_value: One-sided, of a correlation below 0.
        fall: Mean relative fall of the loss.
        gain: Mean gain in score.
        against: Control whose final loss was compared, or `None`.
        below: Mean final loss of the works minus that of the control.
        disagreements: In sentences; none: they agree.
    """

    works: int
    rank_correlation: float | None
    p_value: float | None
    fall: Excess
    gain: Excess
    against: str | None
    below: Excess | None
    disagreements: tuple[str, ...]


def loss_agreement(
    arms: Mapping[str, Arm], comparisons: Sequence[Comparison], *, seed: int
) -> LossAgreement | None:  # fmt: skip
    """Whether works whose loss fell are those that the judge sees coming.

    Formula: relative fall of the loss, first to last quarter of a search, and gain of the best score; each counts as
    moved when its mean is at least 0.05 and its one-sided 95 % bound above 0. They disagree if one moved and the other
    did not; if both moved and Spearman's correlation over works is below 0 at p < 0.05; or if the final loss is lower
    than on a control that never saw the works (upper bound of the difference below 0) while no more comes back and no
    score is higher.

    Args:
        arms: By name, ``works`` among them.
        comparisons: With the controls.
        seed: Decides the resamples.

    Returns:
        What was found, `None` where the attack has no loss or all works are back before the search.
    """
    arm = arms["works"]
    (start, end), before, after = loss_ends(arm.loss), arm.before, arm.best.amax(1)
    rows = ~end.isnan() & (before <= arm.threshold) & (start > 0)
    if int(rows.sum()) < 2:
        return None
    fall, gain = ((start - end) / start)[rows], (after - before)[rows]
    of_fall = excess_mean(fall, torch.zeros_like(fall), paired=True, seed=seed)
    of_gain = excess_mean(after[rows], before[rows], paired=True, seed=seed)
    rho, p = _rank_correlation(fall.numpy(), gain.numpy())
    against, below = _below_control(arms, seed)
    return LossAgreement(
        works=int(rows.sum()), rank_correlation=rho, p_value=p, fall=of_fall, gain=of_gain, against=against,
        below=below, disagreements=(*_moves(of_fall, of_gain, rho, p), *_hidden_trace(against, below, comparisons)),
    )  # fmt: skip


def flags_of(
    arms: Mapping[str, Arm], summaries: Mapping[str, ArmSummary], comparisons: Sequence[Comparison],
    agreement: LossAgreement | None, *, level: float,
) -> tuple[AttackFlag, ...]:  # fmt: skip
    """Every reason for doubt that the numbers give.

    Args:
        arms: By name.
        summaries: By name.
        comparisons: With the controls.
        agreement: Of loss and judge, if there is a loss.
        level: Rate up to which a control counts as quiet.

    Returns:
        Flags; without any nothing speaks against the outcome but what was not measured.
    """
    found = [
        *_controls_recover(summaries, level), *_zero_gradients(arms), *_disagree(agreement),
        *_beyond(comparisons, summaries["works"].budget, level), *_positive(summaries),
    ]  # fmt: skip
    said = {sentence for arm in arms.values() for sentence in arm.flags if not sentence.startswith(ZERO_GRADIENT)}
    return (*found, *map(_own, sorted(said)))


def _rank_correlation(fall: np.ndarray, gain: np.ndarray) -> tuple[float | None, float | None]:
    if len(fall) < 3 or np.ptp(fall) == 0 or np.ptp(gain) == 0:
        return None, None
    found = spearmanr(fall, gain, alternative="less")
    return float(found.statistic), float(found.pvalue)


def _moves(fall: Excess, gain: Excess, rho: float | None, p: float | None) -> list[str]:
    fell, rose = (m.estimate >= _MOVED and (m.lower_one_sided or 0.0) > 0 for m in (fall, gain))
    numbers = f"the loss fell by {100 * fall.estimate:.0f} % on average, the score rose by {gain.estimate:.2f}"
    if fell and not rose:
        return [f"the loss falls but no image comes nearer: {numbers}"]
    if rose and not fell:
        return [f"images come nearer although the loss does not fall: {numbers}"]
    if fell and rose and rho is not None and p is not None and rho < 0 and p < _LEVEL:
        return [f"works whose loss fell most came nearest least: rank correlation {rho:.2f}, p = {p:.2g}"]
    return []


def _below_control(arms: Mapping[str, Arm], seed: int) -> tuple[str | None, Excess | None]:
    """Final loss beside that of a control; the same works where they can be had."""
    name = next((n for n in ("twin", "heldout") if n in arms), None)
    if name is None:
        return None, None
    ours, theirs = loss_ends(arms["works"].loss)[1], loss_ends(arms[name].loss)[1]
    if name == "twin":
        here, there = shared_places(arms["works"].works, arms[name].works)
        ours, theirs = ours[here], theirs[there]
        known = ~ours.isnan() & ~theirs.isnan()
        ours, theirs = ours[known], theirs[known]
    ours, theirs = ours[~ours.isnan()], theirs[~theirs.isnan()]
    if not len(ours) or not len(theirs):
        return None, None
    return name, excess_mean(ours, theirs, paired=name == "twin", seed=seed)


def _hidden_trace(against: str | None, below: Excess | None, comparisons: Sequence[Comparison]) -> list[str]:
    gap = next((c.at_budget for c in comparisons if c.control == against), None)
    if against is None or below is None or gap is None or (below.upper_one_sided or 0.0) >= 0:
        return []
    more = gap.rate.estimate > 0 or (gap.score.lower_one_sided or 0.0) > 0
    if more:
        return []
    return [
        f"the search ends at a lower loss than on {NAMES[against]} (by {-below.estimate:.2g} on average), but no more "
        "comes back and no image is nearer"
    ]


def _controls_recover(summaries: Mapping[str, ArmSummary], level: float) -> list[AttackFlag]:
    rates = {name: summaries[name].curve[-1].ever for name in NEVER_SEEN if name in summaries}
    loud = {name: rate for name, rate in rates.items() if rate.estimate is not None and rate.estimate > level}
    if not loud:
        return []
    back = ", ".join(f"{round((r.estimate or 0.0) * r.n)} of {r.n} among {NAMES[name]}" for name, r in loud.items())
    return [
        AttackFlag(
            name=CONTROL_RECOVERS,
            because=f"More than {100 * level:g} % came back: {back}",
            meaning="With this budget the search can make up an image that the model never learned",
            remedy="Judge at the horizon, or repeat with fewer steps, fewer tries or a smaller radius",
        )
    ]


def _zero_gradients(arms: Mapping[str, Arm]) -> list[AttackFlag]:
    searches = {name: int((arm.gradient == 0).any(dim=1).sum()) for name, arm in arms.items()}
    met = {name: n for name, n in searches.items() if n}
    if not met:
        return []
    blind = len(unsearched(arms["works"]))
    return [
        AttackFlag(
            name=ZERO_GRADIENT,
            because="searches in which the loss did not depend on the input: "
            + ", ".join(f"{n} on {NAMES.get(name, name)}" for name, n in met.items()),
            meaning=f"Nothing was searched there; of {blind} works that did not come back nothing is known",
            remedy="Use float32; check that the model listens to its conditioning; or attack the starting noise",
        )
    ]


def _disagree(agreement: LossAgreement | None) -> list[AttackFlag]:
    return [
        AttackFlag(
            name=DISAGREE,
            because=sentence[0].upper() + sentence[1:],
            meaning="What the search minimises is not what the judge sees, so that a failure may be the search's own",
            remedy="Try another loss or weighting, look at the pictures, and see whether the positive control passes",
        )
        for sentence in (agreement.disagreements if agreement else ())
    ]


def _beyond(comparisons: Sequence[Comparison], budget: int, level: float) -> list[AttackFlag]:
    early = [(c.control, c.horizon.step) for c in comparisons if c.horizon is not None and not c.horizon.is_last]
    if not early:
        return []
    until = ", ".join(
        f"{NAMES[name]} {'not even before it' if step is None else f'up to step {step} only'}" for name, step in early
    )
    return [
        AttackFlag(
            name=BEYOND,
            because=f"The search went to step {budget}, but at most {100 * level:g} % came back of {until}",
            meaning="What comes back later may have been put in by the search",
            remedy="Read the rates at the horizon; keep more steps to find it more finely",
        )
    ]


def _positive(summaries: Mapping[str, ArmSummary]) -> list[AttackFlag]:
    rate = summaries["original"].curve[-1].ever if "original" in summaries else None
    if rate is None or rate.estimate is None or rate.estimate >= PASSED:
        return []
    return [
        AttackFlag(
            name=POSITIVE_FAILS,
            because=f"on the unedited model it brought back {round(rate.estimate * rate.n)} of {rate.n} works",
            meaning="An attack that finds little where nothing was edited says little where something was",
            remedy="More steps, tries or scoring seeds; another learning rate or loss; works that the model replicates",
        )
    ]


def _own(sentence: str) -> AttackFlag:
    return AttackFlag(
        name="said by the search", because=sentence, meaning="The attack itself doubts its outcome",
        remedy="Do as it says, and attack again",
    )  # fmt: skip
