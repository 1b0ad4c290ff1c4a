"""Finding 2: what can be brought back by an attack, each beside works that the model never saw."""

from amnestic.report.findings_parts import Difference, Doubt, Mean, Method, Missing, Open, Part, Rate
from amnestic.report.findings_process import Cost


class CurvePoint(Part):
    """What an attack had brought back by one kept step.

    Attributes:
        step: Step of the search; 0 is before it.
        passes: Rows through the U-Net, forward and backward, that a work which never comes back costs up to it.
        ever: Share of works that came back by this step.
        now: Share of works that are back at this step.
        score: Mean over works of the best score by this step.
    """

    step: int
    passes: float | None
    ever: Rate
    now: Rate
    score: Mean


class AttackedWork(Part):
    """One work under attack.

    Attributes:
        work: Its identifier.
        before: Score before the search.
        after: Best score by its end.
        step: First kept step at which it was back, or null.
    """

    work: str
    before: float | None
    after: float | None
    step: int | None


class Arm(Part):
    """An attack on one model with one set of works.

    Attributes:
        name: ``works``, ``heldout``, ``twin``, ``random`` or ``original``.
        meaning: What this arm is for.
        works: Works attacked.
        tries: Restarts of each.
        seeds: Images that score each input.
        budget: Steps of the search.
        before: Share that is back before the search.
        back: Share that came back by its end.
        by_median: Share whose median over seeds came back.
        median_step: Step by which half of the works were back, or null.
        curve: By kept step.
        forward: Rows through the U-Net, over all its works; null where not counted.
        backward: Rows that a gradient flowed back through, likewise.
        results: Every attacked work.
    """

    name: str
    meaning: str
    works: int
    tries: int
    seeds: int
    budget: int
    before: Rate
    back: Rate
    by_median: Rate | Missing
    median_step: int | None
    curve: tuple[CurvePoint, ...]
    forward: float | None
    backward: float | None
    results: tuple[AttackedWork, ...]


class Beside(Part):
    """The attacked works beside one control, at the end of the search.

    Attributes:
        control: Which arm.
        works: Works of the control that take part.
        rate: Excess of the rate of works that came back.
        score: Excess of the mean best score.
        p_adjusted: Holm-adjusted p-value that scores of works lie above those of the control, or null.
        quiet_until: Last step up to which the control stays quiet by its estimate, or null.
        quiet_until_by_bound: The same by its upper bound.
    """

    control: str
    works: int
    rate: Difference
    score: Difference
    p_adjusted: float | None
    quiet_until: int | None
    quiet_until_by_bound: int | None


class RadiusPoint(Part):
    """What came back within one distance of the starting point.

    Attributes:
        arm: Works or held-out works.
        radius: In distances of ordinary prompts.
        rate: Share that came back.
    """

    arm: str
    radius: float
    rate: Rate


class Attack(Part):
    """One attack with its controls.

    Attributes:
        id: Name of its record.
        method: The search with its settings, which are its budget.
        searches: What it searches over, such as ``embedding``.
        access: What an adversary needs for it.
        conclusion: ``recoverable``, ``not recovered at this budget`` or ``not trustworthy``.
        sentence: The same with its numbers.
        why: What it rests on.
        threshold: A copy scores above it.
        level: Rate up to which a control counts as quiet.
        judged_at: Step at which works were judged, or null.
        arms: Works first, then the controls that were attacked with the same budget.
        comparisons: Works beside each control.
        radius: How far inputs must move; empty without a sweep.
        flags: Reasons for doubt.
        not_measured: What was left out.
        notes: What limits the numbers.
        cost: What it took.
        page: Its own page in the run folder, or missing.
    """

    id: str
    method: Method
    searches: str
    access: str
    conclusion: str
    sentence: str
    why: tuple[str, ...]
    threshold: float
    level: float
    judged_at: int | None
    arms: tuple[Arm, ...]
    comparisons: tuple[Beside, ...]
    radius: tuple[RadiusPoint, ...]
    flags: tuple[Doubt, ...]
    not_measured: tuple[Open, ...]
    notes: tuple[str, ...]
    cost: Cost
    page: str | Missing


class Extraction(Part):
    """What somebody without the originals could tell apart as memorized.

    Attributes:
        id: Name of its record.
        method: The attack with its settings.
        claimed: Prompts it claims.
        recovered: Works that a claim shows.
        precision: Share of claims that show a trained work.
        recall: Share of works that are shown.
        cost: What it took.
    """

    id: str
    method: Method
    claimed: int
    recovered: tuple[str, ...]
    precision: Rate
    recall: Rate
    cost: Cost


class Attacked(Part):
    """Finding 2: what can be brought back by an attack, each beside works that the model never saw.

    Attributes:
        sentences: The finding in words.
        attacks: One entry per attack that was run; none: that is no evidence of safety.
        extractions: Attacks without the originals.
    """

    sentences: tuple[str, ...]
    attacks: tuple[Attack, ...]
    extractions: tuple[Extraction, ...]
