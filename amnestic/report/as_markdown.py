"""The findings as Markdown that a person reads."""

import re
from collections.abc import Iterable, Iterator, Sequence

from amnestic.report import wording
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_mitigated import PairedScore
from amnestic.report.findings_parts import Missing
from amnestic.report.findings_process import Signed
from amnestic.report.findings_rates import Rated, rates_of

MOST_WORKS = 50
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_ITEM = re.compile(r"^(\d*)([-+=.)])")
"""What would begin a list, a line or a heading."""
_ADDRESS = re.compile(r"(https?|ftp|www)([:.])", re.IGNORECASE)
"""What GitHub would turn into a link."""
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def inert(text: object) -> str:
    r"""Text that Markdown shows as it is: on one line, without markup, HTML or hidden marks of direction.

    Args:
        text: Anything.

    Example:
        >>> print(inert("<b>a|b</b>"))
        \<b\>a\|b\</b\>
    """
    one_line = _SPECIAL.sub(r"\\\1", " ".join(_UNSEEN.sub(" ", str(text)).split()))
    return _ITEM.sub(r"\1\\\2", _ADDRESS.sub(r"\1\\\2", one_line))


def as_markdown(findings: Findings) -> str:
    """The findings as one Markdown file: headline, rates beside controls, what was tested and what was not.

    Args:
        findings: The document.

    Returns:
        Text in GitHub's Markdown, with a final line break.
    """
    parts = (
        _head, _rates, _subject, _ordinary, _attacked, _mitigated, _decision, _doubts, _limits, _process, _review
    )  # fmt: skip
    return "\n\n".join("\n".join(part(findings)) for part in parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a table; cells are made inert.

    Args:
        header: Names of the columns.
        rows: Cells.
    """
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(inert(cell) for cell in row) + " |"


def told(value: object) -> str:
    """A value, or why it is not there.

    Args:
        value: Any field of the findings.
    """
    if isinstance(value, Missing):
        return f"{value.state} ({value.why})"
    if isinstance(value, Signed):
        return ", ".join(part for part in (value.name, value.role, value.date) if part)
    return wording.number(value) if isinstance(value, float) else str(value)


def rate_cells(rated: Rated) -> tuple[str, ...]:
    """Cells of one rate."""
    rate = rated.rate.model_dump()
    whose = f"control: {rated.whose}" if rated.control else rated.whose
    return (
        rated.finding, whose, rated.what, rated.counted, wording.percent(rated.rate.estimate), wording.interval(rate),
        wording.upper_bound(rate),
    )  # fmt: skip


RATE_COLUMNS = ("finding", "of", "what", "works", "rate", "95 % interval", "one-sided 95 % upper bound")


def _list(lines: Iterable[object]) -> list[str]:
    return [f"- {inert(line)}" for line in lines]


def _fields(pairs: Iterable[tuple[str, object]]) -> list[str]:
    return [f"- **{name}**: {inert(told(value))}" for name, value in pairs]


def _head(findings: Findings) -> list[str]:
    identity = findings.identity
    ended = identity.ended or "not recorded"
    smoke = [] if identity.smoke_only is not True else ["", "**Smoke only: part of the prompt list. No audit.**"]
    return [
        f"# {inert(identity.title)}", *smoke, "", *_list(findings.headline), "",
        f"Report {identity.report} of run {inert(identity.run)}, protocol {identity.protocol}, measured "
        f"{inert(identity.began)} to {inert(ended)} with {inert(identity.tool)}. SHA-256 of the JSON: "
        f"`{digest_of(findings)}`.",
    ]  # fmt: skip


def _rates(findings: Findings) -> list[str]:
    return ["## Rates beside their controls", "", *table(RATE_COLUMNS, map(rate_cells, rates_of(findings))), "",
            inert(findings.scope.controls.coincidence)]  # fmt: skip


def _subject(findings: Findings) -> list[str]:
    subject, references = findings.scope.subject, findings.scope.references
    detector = findings.methodology.detector
    settings = ", ".join(f"{k} {v}" for k, v in subject.scheduler_settings.items() if v is not None)
    prompts = "; ".join(
        f"{one.prompts} {one.label} of {one.works} works, median {one.words_median:g} and at most {one.words_max} words"
        for one in findings.methodology.prompt_classes
    )
    named = (
        ("Model", f"{subject.model} ({subject.family}, {subject.dtype}), weights {subject.digest}"),
        ("Revision", subject.revision), ("Modification", subject.modification), ("Licence", subject.licence),
        ("Sampling", f"{subject.scheduler}, {settings}; seeds {', '.join(map(str, findings.methodology.seeds))}"),
        ("Safety filters in the test", subject.safety_filters_in_test),
        ("Safety filters in use", subject.safety_filters_in_use), ("Prompts", prompts),
        ("Originals", f"{told(references.images)}, of {references.works} works"), ("Reference set", references.name),
        ("Membership", references.membership), ("Rights", references.rights),
        ("Decides", f"{detector.name}, {detector.preprocessing}, above {detector.threshold:.3g}"),
        ("Threshold", detector.provenance), ("Access", findings.access.model), ("Purpose", findings.scope.purpose),
        ("Human review", findings.methodology.human_review),
    )  # fmt: skip
    gone = [f"{row.what}: {row.why}" for row in references.missing]
    return ["## What was tested", "", *_fields(named), *_list(gone)]


def _ordinary(findings: Findings) -> list[str]:
    one = findings.ordinary
    above = sum(work.replicated for work in one.works)
    shown = one.works[:MOST_WORKS]
    rows = (
        (w.work, wording.named(w.label), "-" if w.rung is None else w.rung, wording.number(w.score),
         wording.number(w.median_score), f"{w.seeds_above} of {w.seeds}", "yes" if w.replicated else "no")
        for w in shown
    )  # fmt: skip
    left = f"{len(one.works) - len(shown)} more works are in the table of works." if len(one.works) > len(shown) else ""
    return [
        "## Finding 1: under ordinary prompts", "", *_list(one.sentences), "",
        f"{above} of {len(one.works)} works above the threshold, the highest score first:", "",
        *table(("work", "kind", "rung", "best score", "median score", "images above", "replicated"), rows), left,
    ]  # fmt: skip


def _attacked(findings: Findings) -> list[str]:
    lines = ["## Finding 2: under attack", "", *_list(findings.attacked.sentences)]
    for attack in findings.attacked.attacks:
        settings = ", ".join(f"{k} {v}" for k, v in attack.method.parameters.items() if v is not None)
        rows = (
            (arm.meaning, f"{arm.tries} by {arm.seeds}", wording.percent(arm.before.estimate),
             wording.percent(arm.back.estimate), wording.interval(arm.back.model_dump()),
             wording.upper_bound(arm.back.model_dump()))
            for arm in attack.arms
        )  # fmt: skip
        columns = ("arm", "tries by images", "before the search", "back", "95 % interval", "one-sided upper bound")
        lines += ["", f"### {inert(attack.method.name)} ({attack.id}): {inert(attack.conclusion)}", ""]
        lines += [f"Budget: {inert(settings)}. {inert(attack.access)}.", "", *table(columns, rows), ""]
        lines += _list([*attack.why, *attack.notes])
        lines += _list(f"Doubt: {flag.name}. {flag.because} {flag.meaning}. {flag.remedy}." for flag in attack.flags)
        lines += _list(f"Not measured: {row.what}: {row.why}" for row in attack.not_measured)
    return lines


def _mitigated(findings: Findings) -> list[str]:
    three = findings.mitigated
    lines = ["## Finding 3: after mitigation", "", *_list(three.sentences)]
    if isinstance(three.compared, Missing):
        return lines
    rows = (
        (row.name, row.group, wording.scaled(row.before), wording.scaled(row.after), row.direction or "-",
         _ends(row), "relative" if row.change.method.startswith("relative") else "absolute")
        for row in (*three.compared.changes, *three.compared.distances)
    )  # fmt: skip
    columns = ("metric", "of", "before", "after", "direction", "95 % interval of the change", "kind of change")
    missing = (f"Not measured: {row.what}: {row.why}" for row in three.compared.not_measured)
    return [*lines, "", *table(columns, rows), "", *_list(missing)]


def _ends(row: PairedScore) -> str:
    ends = [wording.scaled(end, signed=True) for end in (row.change.lower, row.change.upper)]
    return wording.NOT_MEASURED if wording.NOT_MEASURED in ends else " to ".join(ends)


def _decision(findings: Findings) -> list[str]:
    made = findings.decision
    named = (("Asked", made.expression), ("Set by", made.set_by), ("Reason", made.reason))
    return ["## Decision", "", inert(made.sentence), "", *_fields(named)]


def _doubts(findings: Findings) -> list[str]:
    flags = findings.integrity.flags
    told_of = [f"{flag.name} ({flag.because}): {flag.meaning}; {flag.remedy}" for flag in flags] or ["none was raised"]
    missing = [f"{row.what}: {row.why}" for row in findings.integrity.not_measured]
    return ["## Doubts", "", *_list(told_of), "", "## Not measured", "", *_list(missing)]


def _limits(findings: Findings) -> list[str]:
    return ["## What this does not mean", "", *_list(findings.limits)]


def _process(findings: Findings) -> list[str]:
    made = findings.integrity
    named = (
        ("Command", made.command), ("Settings", made.settings_digest), ("Commit", made.commit),
        ("Python", made.python), ("Platform", made.platform), ("Hardware", findings.access.hardware),
        ("Packages", ", ".join(f"{k} {v}" for k, v in made.packages.items())), ("Determinism", made.determinism),
        ("Rates", findings.methodology.rates),
    )  # fmt: skip
    return ["## To repeat it", "", *_fields(named)]


def _review(findings: Findings) -> list[str]:
    who, done = findings.auditor, findings.review
    named = [(name.capitalize(), getattr(who, name)) for name in type(who).model_fields]
    named += [(name.replace("_", " ").capitalize(), getattr(done, name)) for name in type(done).model_fields]
    rows = ((row.framework, row.id, row.question, ", ".join(row.sections)) for row in findings.frameworks)
    return ["## Who answers for it", "", *_fields(named), "", "## Where questions of frameworks are answered", "",
            *table(("framework", "id", "question", "fields of the JSON"), rows)]  # fmt: skip
