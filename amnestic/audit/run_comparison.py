"""Two audits of the same prompts, seeds and judge: did the second model memorize more than the first?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

from jaxtyping import Float
from torch import Tensor

from amnestic.audit.attack_arms import Arm, shared_places
from amnestic.audit.before_after import Side, changes, groups_of
from amnestic.audit.replication import CONTROLS, Embedded
from amnestic.core.amounts import percent
from amnestic.core.records import Rate
from amnestic.measures.discordant import ALPHA, POWER, minimum_detectable_change, rate_change
from amnestic.measures.overlap import holm
from amnestic.measures.paired import McNemar, PairedChange, mcnemar, paired_bootstrap
from amnestic.measures.recovery import share_above, so_far

ALL_WORKS = "all works"
REGRESSION, IMPROVEMENT = "regression", "improvement"
UNDETECTED, INCONCLUSIVE = "no difference detected", "inconclusive"
BOUND = "one-sided 95 % bound"
LEAST_WORKS = 6
"""So many must change the same way before an exact McNemar test at level 0.05 can see it."""


@dataclass(frozen=True, kw_only=True)
class GroupComparison:
    """One group of works under both models.

    Attributes:
        group: Name.
        works: How many.
        before: Share replicated under the first model.
        after: The same works under the second.
        change: Of that share, after minus before.
        mcnemar: Whether it is chance.
        p_adjusted: Its p-value, Holm-adjusted over the groups compared beside it.
        score_before: Mean over works of the best score.
        score_after: The same under the second model.
        score_change: Of that mean; `None` with fewer than two works.
        newly: Works that replicate under the second model alone.
        no_longer: Works that replicate under the first model alone.
        detectable: Smallest change of the rate that the test would find with probability 0.8, given as many works and
            as large a share of them that differs; `None` where it could find none.
        reading: ``rose`` or ``fell`` where the adjusted p-value is below 0.05, else ``no difference detected``;
            ``too few works`` where the test can find nothing.
    """

    group: str
    works: int
    before: Rate
    after: Rate
    change: PairedChange
    mcnemar: McNemar
    p_adjusted: float | None
    score_before: float
    score_after: float
    score_change: PairedChange | None
    newly: tuple[str, ...]
    no_longer: tuple[str, ...]
    detectable: float | None
    reading: str


@dataclass(frozen=True, kw_only=True)
class AttackComparison:
    """One attack that was made alike on both models.

    Attributes:
        method: Its name.
        parameters: Its settings.
        records: Names of the two records, first and second run.
        arms: Each arm that both have, as a group of works that came back within the budget.
    """

    method: str
    parameters: Mapping[str, Any]
    records: tuple[str, str]
    arms: tuple[GroupComparison, ...]


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What two audits say of each other.

    Attributes:
        conclusion: ``regression``, ``improvement``, ``no difference detected`` or ``inconclusive``; of all works, the
            group named before anything was measured.
        sentence: The same with its numbers.
        notes: What else was seen, and what limits it, in sentences.
        groups: All works, rungs, controls.
        means: Other means that changed or not, as `amnestic.audit.before_after.changes` returns them.
        attacks: Attacks that both models met alike.
        not_compared: What was left out, and why.
        threshold: A copy scores above it.
        alpha: Level of the tests.
        power: Probability that belongs to `GroupComparison.detectable`.
    """

    conclusion: str
    sentence: str
    notes: tuple[str, ...]
    groups: tuple[GroupComparison, ...]
    means: tuple[Mapping[str, Any], ...]
    attacks: tuple[AttackComparison, ...]
    not_compared: tuple[tuple[str, str], ...]
    threshold: float
    alpha: float = ALPHA
    power: float = POWER


def compare_runs(
    embedded: Embedded, before: Side, after: Side, threshold: float, *, unit: str,
    attacks: Sequence[AttackComparison] = (), not_compared: Sequence[tuple[str, str]] = (),
) -> RunComparison:  # fmt: skip
    """Compare the audits of two models work by work.

    Args:
        embedded: Prompts, originals and works that both audits have.
        before: Scores of the first model.
        after: Scores of the second, of the same prompts and seeds.
        threshold: Decides replication on both sides.
        unit: Name of the copy descriptor.
        attacks: From `compare_attack`.
        not_compared: What was left out before, and why.

    Returns:
        The comparison; `amnestic.core.records.plain` makes JSON of it.
    """
    groups = []
    for name, rows in groups_of(embedded, (), ()).items():
        if rows:
            control = all(embedded.prompts[r].label in CONTROLS or embedded.original[r] < 0 for r in rows)
            one, other = ((s.nearest if control else s.paired)[rows].amax(1) for s in (before, after))
            groups.append(group_comparison(name, [embedded.work_of(r) for r in rows], one, other, threshold))
    read = with_holm(groups)
    main = next((g for g in read if g.group == ALL_WORKS), None)
    conclusion, sentence = concluded(main)
    return RunComparison(
        conclusion=conclusion, sentence=sentence, notes=tuple(_notes(read, main, attacks)), groups=read,
        means=tuple(changes(embedded, before, after, unit, ())) if len(embedded.prompts) else (),
        attacks=tuple(attacks), not_compared=tuple(not_compared), threshold=threshold,
    )  # fmt: skip


def group_comparison(
    group: str, names: Sequence[str], before: Float[Tensor, "W"], after: Float[Tensor, "W"], threshold: float
) -> GroupComparison:
    """One group of works, by the best score of each.

    Args:
        group: Its name.
        names: Of the W works.
        before: Best score of each under the first model, the maximum over as many images as in `after`.
        after: The same under the second.
        threshold: A copy scores above it.

    Returns:
        Rates, tests and bounds; the p-value is adjusted for nothing yet.

    Raises:
        ValueError: If there is no work, or a score is missing.
    """
    hits = before > threshold, after > threshold
    test = mcnemar(*hits)
    columns = [side.double()[:, None] for side in (before, after)]
    return _read(
        GroupComparison(
            group=group, works=len(names), before=share_above(before, threshold), after=share_above(after, threshold),
            change=rate_change(*hits), mcnemar=test, p_adjusted=test.p_value,
            score_before=float(columns[0].mean()), score_after=float(columns[1].mean()),
            score_change=paired_bootstrap(*columns, seed=0) if len(names) > 1 else None,
            newly=_where(names, ~hits[0] & hits[1]), no_longer=_where(names, hits[0] & ~hits[1]),
            detectable=minimum_detectable_change(test.n, test.only_before + test.only_after), reading="",
        )
    )  # fmt: skip


def with_holm(groups: Sequence[GroupComparison]) -> tuple[GroupComparison, ...]:
    """The same groups, each read at a p-value that is raised for their number."""
    adjusted = holm([group.mcnemar.p_value for group in groups])
    return tuple(_read(replace(group, p_adjusted=p)) for group, p in zip(groups, adjusted, strict=True))


def compare_attack(
    method: str, parameters: Mapping[str, Any], records: tuple[str, str], arms: Mapping[str, tuple[Arm, Arm]]
) -> AttackComparison | None:
    """What one attack brought out of both models.

    Args:
        method: Its name.
        parameters: Its settings.
        records: Where the outcomes were read.
        arms: Arms of both models by name, attacked alike: as many tries, scoring seeds and kept steps.

    Returns:
        The comparison; `None` where no arm has a work in common.
    """
    found = []
    for name, (one, other) in arms.items():
        ours, theirs = shared_places(one.works, other.works)
        if ours:
            best, second = so_far(one.best)[ours, -1], so_far(other.best)[theirs, -1]
            found.append(group_comparison(name, [one.works[i] for i in ours], best, second, one.threshold))
    if not found:
        return None
    return AttackComparison(method=method, parameters=parameters, records=records, arms=with_holm(found))


def concluded(works: GroupComparison | None) -> tuple[str, str]:
    """The conclusion and its sentence.

    Args:
        works: All works, or `None` where the audits have none in common.

    Returns:
        A regression only where the lower one-sided bound of the change is above 0.
    """
    if works is None:
        return INCONCLUSIVE, "Inconclusive: the two audits have no work in common, so that nothing was compared."
    shares = f"from {_percent(works.before.estimate)} to {_percent(works.after.estimate)} of {_works(works.works)}"
    p = f"McNemar p = {works.mcnemar.p_value:.2g}"
    if works.change.lower_one_sided > 0:
        bound = _points(works.change.lower_one_sided, ROUND_FLOOR)
        return REGRESSION, f"Regression: the memorization rate rose {shares}, by at least {bound} ({BOUND}; {p})."
    if works.change.upper_one_sided < 0:
        bound = _points(-works.change.upper_one_sided, ROUND_FLOOR)
        return IMPROVEMENT, f"Improvement: the memorization rate fell {shares}, by at least {bound} ({BOUND}; {p})."
    if works.detectable is None:
        return INCONCLUSIVE, (
            f"Inconclusive: the memorization rate went {shares}, which are too few: an exact McNemar test at 0.05 "
            f"needs {LEAST_WORKS} works that change the same way."
        )
    rise, fall = (
        _points(end, ROUND_CEILING) for end in (works.change.upper_one_sided, -works.change.lower_one_sided)
    )  # fmt: skip
    detectable = _points(works.detectable, ROUND_CEILING)
    return UNDETECTED, (
        f"No difference detected: the memorization rate went {shares} ({p}); a rise of up to {rise} and a fall of up "
        f"to {fall} remain possible ({BOUND} each), and a change of {detectable} would have been found "
        f"with probability {POWER:g}."
    )


def _notes(
    groups: Sequence[GroupComparison], main: GroupComparison | None, attacks: Sequence[AttackComparison]
) -> list[str]:
    notes = []
    if main is not None and main.score_change is not None:
        change = main.score_change
        notes.append(
            f"The mean best similarity of works was {main.score_before:.3f} before and {main.score_after:.3f} after "
            f"(change {change.estimate:+.3f}, {change.lower:+.3f} to {change.upper:+.3f})."
        )
    others = [group for group in groups if group.group != ALL_WORKS and group.reading in ("rose", "fell")]
    notes += [f"The rate of “{group.group}” {group.reading} {_went(group)}." for group in others]
    for attack in attacks:
        for arm in attack.arms:
            what = f"Under {attack.method}, the share of “{arm.group}” that came back"
            found = arm.reading if arm.reading in ("rose", "fell") else "did not detectably change"
            notes.append(f"{what} {found} {_went(arm)}.")
    return notes


def _went(group: GroupComparison) -> str:
    shares = f"from {_percent(group.before.estimate)} to {_percent(group.after.estimate)} of {group.works}"
    return f"{shares} (Holm-adjusted p = {group.p_adjusted:.2g})"


def _read(group: GroupComparison) -> GroupComparison:
    p, change = group.p_adjusted, group.change.estimate
    if p is not None and p < ALPHA:
        return replace(group, reading="rose" if change > 0 else "fell")
    return replace(group, reading="too few works" if group.detectable is None else UNDETECTED)


def _where(names: Sequence[str], is_so: Tensor) -> tuple[str, ...]:
    return tuple(name for name, so in zip(names, is_so.tolist(), strict=True) if so)


def _works(n: int) -> str:
    return f"{n} work" if n == 1 else f"{n} works"


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else percent(share)


def _points(share: float, rounding: str) -> str:
    """A bound in percentage points, rounded so that it claims no more than it may."""
    return f"{Context(prec=2, rounding=rounding).create_decimal_from_float(100 * share).normalize():f} points"
