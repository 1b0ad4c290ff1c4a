"""The findings as a section of a model card, and as results that the Hub shows beside it."""

import re

import yaml

from amnestic.core.errors import InputError
from amnestic.report import wording
from amnestic.report.as_markdown import RATE_COLUMNS, inert, rate_cells, table, told
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_parts import Missing, not_given, not_measured
from amnestic.report.findings_rates import rates_of

BEGIN, END = "<!-- memorization audit by amnestic -->", "<!-- end of the memorization audit -->"
RESULTS_FILE = ".eval_results/amnestic-memorization.yaml"
TASK = "memorization-rate"
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = ("replicated, best of the seeds", "above the threshold", "replicated before", "replicated after")


def card_section(findings: Findings) -> str:
    """What a model card should say of the audit: results with bounds, how they were measured, what they do not mean.

    Args:
        findings: The document.

    Returns:
        Markdown between two comments, by which a later section replaces it.
    """
    detector, subject = findings.methodology.detector, findings.scope.subject
    rows = [rated for rated in rates_of(findings) if rated.what in _SHOWN or rated.finding == "attacked"]
    missing = [f"- {inert(row.what)}: {inert(row.why)}" for row in findings.integrity.not_measured]
    lines = [
        BEGIN, "## Memorization audit", "", *(f"- {inert(line)}" for line in findings.headline), "",
        *table(RATE_COLUMNS, map(rate_cells, rows)), "",
        f"Weights `{subject.digest}`; {inert(detector.name)} above {detector.threshold:.3g} "
        f"({inert(detector.provenance)}); {len(findings.methodology.seeds)} images per prompt; protocol "
        f"`{findings.identity.protocol}`; safety filters in the test: {inert(subject.safety_filters_in_test)}; in use: "
        f"{inert(told(subject.safety_filters_in_use))}. Auditor: {inert(told(findings.auditor.name))}. Complaints: "
        f"{inert(told(findings.review.complaint_contact))}. SHA-256 of the full findings: `{digest_of(findings)}`.", "",
        "Not measured:", "", *missing, "", *(f"- {inert(line)}" for line in findings.limits), END,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def with_section(card: str, section: str) -> str:
    """A model card with the section in it: in place of an earlier one, else at its end.

    Args:
        card: Content of ``README.md``; may be empty.
        section: From `card_section`.

    Example:
        >>> one = with_section("# A model", f"{BEGIN} first {END}")
        >>> with_section(one, f"{BEGIN} second {END}").replace(chr(10), " ")
        '# A model  <!-- memorization audit by amnestic --> second <!-- end of the memorization audit --> '
    """
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        return before + section.rstrip("\n") + after
    return (card.rstrip("\n") + "\n\n" if card.strip() else "") + section.rstrip("\n") + "\n"


def eval_results(findings: Findings) -> str | Missing:
    """Content of a file in ``.eval_results``; the form has no place for intervals, so they stand in the notes.

    Args:
        findings: The document.

    Returns:
        YAML, or why there is none.
    """
    name, rate = findings.scope.references.name, findings.ordinary.rate
    if isinstance(name, Missing) or not _ON_HUB.fullmatch(name):
        key = not_given("reference_set")
        why = "results on the Hub belong to a dataset there; give its ORG/NAME as reference_set in the auditor file"
        return key.model_copy(update={"why": why})
    if rate.estimate is None:
        return not_measured("no work was tested, and a rate that was not measured is not a rate of zero")
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError as error:
        raise InputError("results for the Hub need huggingface_hub 1.4 or newer; pip install -U huggingface_hub") from (
            error
        )
    value, when = round(rate.estimate, 6), findings.identity.ended
    entry = EvalResultEntry(dataset_id=name, task_id=TASK, value=value, date=when, notes=_notes(findings))
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True, width=120)


def _notes(findings: Findings) -> str:
    rate = findings.ordinary.rate
    found = rate.model_dump()
    said = [
        f"{round((rate.estimate or 0) * rate.n)} of {rate.n} works",
        f"95 % interval {wording.interval(found)}", f"one-sided 95 % upper bound {wording.upper_bound(found)}",
        f"{len(findings.methodology.seeds)} images per prompt", f"protocol {findings.identity.protocol}",
        findings.scope.controls.coincidence, f"SHA-256 of the findings {digest_of(findings)}",
    ]  # fmt: skip
    return "; ".join(line.rstrip(".") for line in said).replace("\u00a0", " ")
