"""Finding 3 from a run: what a mitigation changed, in copies and in usefulness."""

from collections.abc import Iterator

from amnestic.report import wording
from amnestic.report.attack_rows import counted, note
from amnestic.report.facts import count, listed, mapping, real
from amnestic.report.findings_attacked import Attacked
from amnestic.report.findings_mitigated import (
    Compared,
    EditedSite,
    MadeFromThis,
    Mitigated,
    Mitigation,
    PairedRate,
    PairedScore,
)
from amnestic.report.findings_parts import Method, Missing, not_applicable, not_measured
from amnestic.report.findings_process import Cost
from amnestic.report.found_attacked import difference, pairs
from amnestic.report.found_ordinary import rate
from amnestic.report.run_facts import EditFacts, RecordFacts, RunFacts
from amnestic.report.wording import Facts

NOT_COMPARED = "This run is not compared with an audit of a model before a mitigation (amnestic audit --before RUN)."
ALL_WORKS = "all works"


def mitigated(facts: RunFacts, under_attack: Attacked) -> Mitigated:
    """What a mitigation changed, and which mitigations were made from the audited model.

    Args:
        facts: The run.
        under_attack: Finding 2, without which a rate after a mitigation says little.
    """
    found = mapping(facts.summary.get("before_after"))
    compared = _compared(found) if found else not_applicable(NOT_COMPARED)
    located = {record.id: record for record in facts.records_of("locate")}
    made = [*(_edited(edit, located) for edit in facts.edits), *map(_tuned, facts.records_of("finetune"))]
    return Mitigated(sentences=tuple(_said(compared, made, under_attack)), compared=compared, made=tuple(made))


def _said(compared: Compared | Missing, made: list[MadeFromThis], under_attack: Attacked) -> Iterator[str]:
    if isinstance(compared, Missing):
        yield NOT_COMPARED
    else:
        yield from _said_of(compared)
        if not under_attack.attacks:
            yield "Whether the copies are gone or only hidden was not tested: no attack was run on this model."
    if made:
        names = ", ".join(dict.fromkeys(one.mitigation.method.name for one in made))
        yield (
            f"{len(made)} mitigations were made from this model ({names}); what they are worth stands in the reports "
            "of the models that came out."
        )


def _said_of(compared: Compared) -> Iterator[str]:
    row = next((row for row in compared.rates if row.group == ALL_WORKS), None)
    if row is not None:
        before, after = row.before.model_dump(), row.after.model_dump()
        p = "" if row.p_value is None else f"; p of McNemar's exact test: {wording.p_value(row.p_value)}"
        yield (
            f"Before the mitigation {counted(before)} works were replicated ({note(before)}), after it "
            f"{counted(after)} ({note(after)}), with the same prompts and seeds{p}."
        )
        if wording.is_zero(after):
            yield (
                f"Zero events are an upper bound, not an absence: up to {wording.upper_bound(after)} remain possible "
                "(one-sided 95\u00a0% bound)."
            )
    cost = [row for row in compared.changes if row.group == "base prompts" and row.direction]
    for change in cost:
        ends = wording.interval(change.change.model_dump(), as_share=False)
        yield (
            f"On base prompts, {change.name} went from {wording.number(change.before)} to "
            f"{wording.number(change.after)} ({change.direction}; 95\u00a0% interval of the change: {ends}, "
            f"{change.change.method.split(';')[0]})."
        )
    if not cost:
        yield "What the mitigation costs on base prompts was not measured."


def _compared(found: Facts) -> Compared:
    before = mapping(found.get("before"))
    edit = mapping(found.get("edit"))
    return Compared(
        before=str(before.get("model")), before_digest=str(before.get("digest")), before_run=str(before.get("run")),
        mitigation=_of_summary(edit) if edit else not_given_by_model(),
        rates=tuple(_rates(row) for row in listed(found.get("rates"))),
        changes=tuple(_change(row) for row in listed(found.get("changes"))),
        distances=tuple(_change(row) for row in listed(found.get("distances"))),
        not_measured=pairs(found.get("not_measured")),
    )  # fmt: skip


def not_given_by_model() -> Missing:
    """For a model that carries no word about how it was made."""
    return not_measured("the model folder does not say how it was made (no amnestic-edit.json)")


def _rates(row: Facts) -> PairedRate:
    test = mapping(row.get("mcnemar"))
    return PairedRate(
        group=str(row.get("group")), works=count(row.get("works")) or 0, before=rate(row.get("before")),
        after=rate(row.get("after")), only_before=count(test.get("only_before")),
        only_after=count(test.get("only_after")), p_value=real(test.get("p_value")),
    )  # fmt: skip


def _change(row: Facts) -> PairedScore:
    return PairedScore(
        name=str(row.get("name")), group=str(row.get("group") or "base prompts"), unit=str(row.get("unit") or ""),
        direction=str(row.get("direction") or ""), before=real(row.get("before")), after=real(row.get("after")),
        change=difference(row.get("change")),
    )  # fmt: skip


def _mitigation(
    kind: str, method: Method, located_by: Method | Missing, about: Facts, cost: Cost | Missing
) -> Mitigation:
    works, share = tuple(map(str, about.get("works") or ())), real(about.get("share"))
    return Mitigation(
        kind=kind, method=method, located_by=located_by, weights=count(about.get("weights")) or 0,
        share=not_measured("it was not recorded") if share is None else share,
        selected=count(about.get("selected")) or len(works), works=works,
        other_works=tuple(map(str, about.get("other_works") or ())),
        sites=tuple(_site(site) for site in listed(about.get("sites"))),
        traces={str(name): real(value) for name, value in mapping(about.get("traces")).items()}, cost=cost,
    )  # fmt: skip


def _site(site: Facts) -> EditedSite:
    texts = {key: str(site.get(key) or "") for key in ("name", "stage", "kind")}
    return EditedSite(**texts, chosen=count(site.get("chosen")) or 0, size=count(site.get("size")) or 0)


def _of_summary(edit: Facts) -> Mitigation:
    tuned = edit.get("located_by") == "fine-tuning"
    by = Method(name=str(edit.get("located_by")), parameters=dict(mapping(edit.get("located_parameters"))))
    return _mitigation(
        "fine-tuning" if tuned else "edit",
        Method(name=str(edit.get("method")), parameters=dict(mapping(edit.get("parameters")))),
        not_applicable("fine-tuning chooses no weights") if tuned else by, edit,
        not_measured("the run of the model before the mitigation holds it"),
    )  # fmt: skip


def _edited(edit: EditFacts, located: dict[str, RecordFacts]) -> MadeFromThis:
    by, record = mapping(edit.about.get("located_by")), located.get(str(edit.about.get("located")))
    passes = real(record.data.get("passes")) if record else None
    cost = not_measured("the record of its units is gone") if record is None else Cost(
        what="locating the units", seconds=real(record.data.get("seconds")), forward=passes
    )  # fmt: skip
    method = Method(name=edit.name, parameters=dict(edit.parameters))
    located_by = Method(name=str(by.get("name")), parameters=dict(mapping(by.get("parameters"))))
    made = _mitigation("edit", method, located_by, edit.about, cost)
    return MadeFromThis(id=edit.id, mitigation=made, result=_result(edit.about))


def _tuned(record: RecordFacts) -> MadeFromThis:
    passes = [mapping(part) for part in mapping(record.data.get("passes")).values()]
    cost = Cost(
        what="fine-tuning", seconds=real(record.data.get("seconds")),
        forward=sum(real(part.get("forward")) or 0.0 for part in passes),
        backward=sum(real(part.get("backward")) or 0.0 for part in passes),
    )  # fmt: skip
    made = _mitigation(
        "fine-tuning", Method(name=record.name, parameters=dict(record.parameters)),
        not_applicable("fine-tuning chooses no weights"), record.data, cost,
    )  # fmt: skip
    return MadeFromThis(id=record.id, mitigation=made, result=_result(record.data))


def _result(about: Facts) -> str | Missing:
    return str(about["result"]) if about.get("result") else not_measured("it was not recorded")
