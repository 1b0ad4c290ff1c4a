"""Finding 2 from a run: its attacks with their controls."""

from collections.abc import Iterator, Mapping

from amnestic.report import wording
from amnestic.report.attack_figures import arm_name
from amnestic.report.attack_rows import arms_of, counted, note
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.findings_attacked import (
    Arm,
    Attack,
    Attacked,
    AttackedWork,
    Beside,
    CurvePoint,
    Extraction,
    RadiusPoint,
)
from amnestic.report.findings_parts import Difference, Doubt, Mean, Method, Open, not_measured
from amnestic.report.findings_process import Cost
from amnestic.report.found_ordinary import rate
from amnestic.report.run_facts import RecordFacts, RunFacts
from amnestic.report.wording import Facts

NONE_RUN = (
    "No attack was run, so nothing is known about what can be brought back: a work that does not come out under "
    "ordinary prompts may still lie in the weights."
)
OTHERWISE = "judged otherwise than the audit"
ACCESS = {
    "embedding": "white box: the text embedding is searched with gradients through the weights",
    "noise": "white box: conditioning and starting noise are searched with gradients through the weights",
    "prompt": "white box for the search; what it finds is text that anybody can type",
}


def attacked(facts: RunFacts) -> Attacked:
    """Every attack that the run holds.

    Args:
        facts: The run.
    """
    attacks = tuple(_attack(record, tuple(_judged_otherwise(record, facts))) for record in facts.records_of("attack"))
    extractions = tuple(_extraction(record) for record in facts.records_of("extract"))
    said = [*(line for attack in attacks for line in _said(attack)), *(_claims(found) for found in extractions)]
    if not attacks:
        said.insert(0, NONE_RUN)
    return Attacked(sentences=tuple(said), attacks=attacks, extractions=extractions)


def difference(facts: object) -> Difference:
    """An excess or a paired change of a record or summary."""
    found = mapping(facts)
    ends = ("estimate", "lower", "upper", "lower_one_sided", "upper_one_sided")
    n = count(found.get("n_target"))
    paired = found.get("paired")
    return Difference(
        **{end: real(found.get(end)) for end in ends}, n=count(found.get("n")) if n is None else n,
        paired=paired if isinstance(paired, bool) else None, method=str(found.get("method") or "not measured"),
    )  # fmt: skip


def pairs(found: object) -> tuple[Open, ...]:
    """Name and reason of what was left out, as records hold them."""
    rows = found if isinstance(found, (list, tuple)) else ()
    return tuple(Open(what=str(row[0]), why=str(row[1])) for row in rows if len(row) == 2)


def _said(attack: Attack) -> Iterator[str]:
    yield f"{attack.method.name}: {attack.sentence}"
    if any(flag.name == OTHERWISE for flag in attack.flags):
        yield f"{attack.method.name} was judged otherwise than the audit, so that the two cannot be compared."
    back = next((arm.back for arm in attack.arms if arm.name == "works"), None)
    if back is not None and wording.is_zero(back.model_dump()):
        yield (
            f"That none came back is an upper bound, not an absence: up to {wording.percent(back.upper_one_sided)} of "
            "such works may come back at this budget (one-sided 95\u00a0% bound), and another search may find more."
        )


def _claims(found: Extraction) -> str:
    precision, recall = found.precision.model_dump(), found.recall.model_dump()
    return (
        f"{found.method.name}, without the originals: {found.claimed} prompts were claimed, of which "
        f"{counted(precision)} show a work ({note(precision)}); {counted(recall)} works were shown ({note(recall)})."
    )


def _judged_otherwise(record: RecordFacts, facts: RunFacts) -> Iterator[Doubt]:
    """A doubt about an attack that was judged before the audit was scored again."""
    by_id = {one.id: one for one in facts.records}
    arm = by_id.get(str(mapping(record.data.get("arms")).get("works")))
    told: list[tuple[str, object, object]] = [
        ("threshold", real(mapping(record.data.get("verdict")).get("threshold")), facts.threshold)
    ]
    if arm is not None and len(arm.parents) > 1:
        told.append(("descriptor", arm.parents[1], mapping(facts.summary.get("protocol")).get("descriptor")))
    unlike = [f"{what} {theirs} here, {ours} in the audit" for what, theirs, ours in told if theirs != ours]
    if unlike:
        yield Doubt(
            name=OTHERWISE, because="; ".join(unlike),
            meaning="its rates cannot be compared with those under ordinary prompts", remedy="attack again",
        )  # fmt: skip


def _attack(record: RecordFacts, doubts: tuple[Doubt, ...]) -> Attack:
    verdict = mapping(record.data.get("verdict"))
    arms = tuple(_arm(name, arm) for name, arm in arms_of(verdict).items())
    searches = str(record.data.get("searches") or "not recorded")
    return Attack(
        id=record.id, method=Method(name=record.name, parameters=dict(record.parameters)), searches=searches,
        access=ACCESS.get(searches, "not recorded"), conclusion=str(verdict.get("conclusion")),
        sentence=str(verdict.get("sentence")), why=_texts(verdict, "why"), threshold=float(verdict["threshold"]),
        level=float(verdict["level"]), judged_at=count(verdict.get("judged_at")), arms=arms,
        comparisons=tuple(_beside(row) for row in listed(verdict.get("comparisons"))),
        radius=tuple(_radii(verdict)), flags=(*doubts, *(_doubt(row) for row in listed(verdict.get("flags")))),
        not_measured=pairs(verdict.get("not_measured")), notes=_texts(verdict, "notes"),
        cost=Cost(what="search and scoring of all arms", seconds=real(record.data.get("seconds")),
                  forward=_sum(arm.forward for arm in arms), backward=_sum(arm.backward for arm in arms)),
        page=record.page or not_measured("the run holds no page of it; issue the attack's command again"),
    )  # fmt: skip


def _arm(name: str, arm: Facts) -> Arm:
    points, passes = listed(arm.get("curve")), list(arm.get("passes") or ())
    curve = tuple(
        _point(point, real(passes[i]) if i < len(passes) else None) for i, point in enumerate(points)
    )  # fmt: skip
    works = listed(arm.get("works"))
    return Arm(
        name=name, meaning=arm_name(name), works=len(works), tries=count(arm.get("tries")) or 0,
        seeds=count(arm.get("seeds")) or 0, budget=count(arm.get("budget")) or 0, before=rate(arm.get("before")),
        back=curve[-1].ever if curve else rate(None), by_median=rate(arm.get("by_median")),
        median_step=count(arm.get("median_step")), curve=curve, forward=real(arm.get("forward")),
        backward=real(arm.get("backward")),
        results=tuple(
            AttackedWork(work=str(row.get("work")), before=real(row.get("before")), after=real(row.get("after")),
                         step=count(row.get("step"))) for row in works
        ),
    )  # fmt: skip


def _point(point: Facts, passes: float | None) -> CurvePoint:
    mean = mapping(point.get("mean"))
    return CurvePoint(
        step=count(point.get("step")) or 0, passes=passes, ever=rate(point.get("ever")), now=rate(point.get("now")),
        score=Mean(**{end: real(mean.get(end)) for end in ("estimate", "lower", "upper")}),
    )  # fmt: skip


def _beside(row: Facts) -> Beside:
    gap = mapping(row.get("at_budget"))
    return Beside(
        control=str(row.get("control")), works=count(row.get("works")) or 0, rate=difference(gap.get("rate")),
        score=difference(gap.get("score")), p_adjusted=real(row.get("p_adjusted")),
        quiet_until=count(mapping(row.get("horizon")).get("step")),
        quiet_until_by_bound=count(mapping(row.get("horizon_by_bound")).get("step")),
    )  # fmt: skip


def _radii(verdict: Facts) -> Iterator[RadiusPoint]:
    for arm, sweep in mapping(verdict.get("radius")).items():
        for point in listed(mapping(sweep).get("points")):
            measured = wording.rate_of(point.get("ever") or point.get("rate"))
            yield RadiusPoint(arm=arm, radius=float(point["radius"]), rate=rate(measured))


def _doubt(row: Facts) -> Doubt:
    return Doubt(**{key: str(row.get(key) or "") for key in ("name", "because", "meaning", "remedy")})


def _texts(verdict: Facts, key: str) -> tuple[str, ...]:
    return tuple(str(line) for line in verdict.get(key) or ())


def _sum(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _extraction(record: RecordFacts) -> Extraction:
    data: Mapping[str, object] = record.data
    recovered = data.get("recovered")
    return Extraction(
        id=record.id, method=Method(name=record.name, parameters=dict(record.parameters)),
        claimed=count(data.get("claimed")) or 0,
        recovered=tuple(map(str, recovered)) if isinstance(recovered, (list, tuple)) else (),
        precision=rate(data.get("precision")), recall=rate(data.get("recall")),
        cost=Cost(what="comparison of the audit's images", seconds=real(data.get("seconds")),
                  forward=real(data.get("passes"))),
    )  # fmt: skip
