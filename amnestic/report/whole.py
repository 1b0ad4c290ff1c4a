"""The findings as one HTML file for people: no script, nothing fetched, no picture from which a work can be read."""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple

from markupsafe import Markup

from amnestic.core.seal import SIGNATURE, SUMS
from amnestic.report import wording
from amnestic.report.attack_rows import counted
from amnestic.report.findings import Findings, digest_of
from amnestic.report.findings_attacked import Attack
from amnestic.report.findings_parts import Doubt, Missing, Open, Rate
from amnestic.report.html import fill
from amnestic.report.inline import inline_svg
from amnestic.report.whole_answer import CONTROL_ARMS, answers, beside, paragraph, sure
from amnestic.report.whole_figures import attack_figures, glance_figure, glances, mitigated_figures, ordinary_figures
from amnestic.report.whole_layers import layers_of
from amnestic.report.whole_pictures import Opened, Sources
from amnestic.report.whole_rows import Row, absent_keys, rows_of, said
from amnestic.report.whole_works import MOST, what_pictures_show, works_of

PARTS = tuple(f"whole_{name}.html.j2" for name in ("macros", "answer", "tested", "results", "evidence", "end"))
ANCHORS = {
    "auditor": "auditor", "scope": "scope", "scope.subject": "subject", "scope.references": "references",
    "scope.controls": "controls", "methodology": "methodology", "access": "access", "integrity": "integrity",
    "review": "review", "ordinary": "ordinary", "attacked": "attacked", "mitigated": "mitigated",
    "decision": "decision", "evidence": "evidence", "limits": "limits",
}  # fmt: skip
_SMOKE = "Smoke only: this run asked a part of the prompt list. Its numbers are no audit."


class Flag(NamedTuple):
    """A doubt, and where it belongs."""

    where: str
    doubt: Doubt


class Figure(NamedTuple):
    """A drawing with its caption."""

    name: str
    svg: Markup
    caption: str


def render_findings(
    findings: Findings, opened: Opened, *, originals: Opened | None = None, before: Opened | None = None,
    show_originals: bool = False,
) -> str:  # fmt: skip
    """The findings as one HTML file.

    Args:
        findings: The document; its texts may be hostile and stay text.
        opened: The bytes of a file of the run by its path inside, or `None`.
        originals: The bytes of an original by its path in the reference folder; without it none is opened.
        before: Files of the run of the model before a mitigation, likewise.
        show_originals: Show pictures as they are. By default they are blurred until no work can be read from them.

    Returns:
        HTML in UTF-8 without scripts and without addresses to fetch from.
    """
    sources = Sources(run=opened, originals=originals, before=before, show_originals=show_originals)
    return fill("whole.html.j2", _context(findings, sources), PARTS)


def _context(findings: Findings, sources: Sources) -> dict[str, Any]:
    works = works_of(findings, sources)
    style = files("amnestic.report").joinpath("whole.css").read_text("utf-8")
    return {
        "f": findings, "more_style": Markup(style),  # noqa: S704 - a file of this package
        "digest": digest_of(findings), "answers": answers(findings), "paragraph": paragraph(findings),
        "glance": _figure("glance", "Every rate at one glance.", glance_figure(glances(findings)),
                          "Blue dots are works, grey squares are controls, bands are 95\u00a0% intervals."),
        "smoke": _SMOKE if findings.identity.smoke_only is True else "",
        "rows_of": rows_of, "said": said, "sure": sure, "beside": beside, "missing": _missing, "link": link,
        "counted": _counted, "absent": absent_keys(findings), "signed": _signed, "control_arms": CONTROL_ARMS,
        "ordinary_figures": _figures("ordinary", ordinary_figures(findings)),
        "attacks": [(a, _figures(f"attack-{i}", attack_figures(a)), _anchor(i))
                    for i, a in enumerate(findings.attacked.attacks, start=1)],
        "mitigated_figures": _figures("mitigated", mitigated_figures(findings)),
        "layers": [(found, _figure(f"steps-{i}", "Denoising steps.", found.steps,
                    "Share of the weights of each layer that each denoising step chose."))
                   for i, found in enumerate(layers_of(findings, sources.run))],
        "flags": list(_flags(findings)), "open": list(_open(findings)),
        "works": works, "replicated": [w for w in works if w.work.replicated and w.tiles],
        "others": [w for w in works if not w.work.replicated and w.tiles], "most": MOST,
        "unopened": what_pictures_show(findings, sources), "show_originals": sources.show_originals,
        "environment": _environment(findings), "frameworks": list(_frameworks(findings)), "seal": _seal(sources.run),
    }  # fmt: skip


def _environment(findings: Findings) -> list[Row]:
    names = {
        "protocol": "Protocol", "tool": "Measured by", "written_by": "Report written by", "began": "Began, UTC",
        "ended": "Ended, UTC",
    }  # fmt: skip
    return rows_of(findings.identity, *names, **names)


def _missing(value: object) -> bool:
    return isinstance(value, Missing)


def _counted(rate: Rate) -> str:
    return counted(rate.model_dump())


def _figures(prefix: str, drawn: list[tuple[str, str, str]]) -> list[Figure]:
    found = [_figure(f"{prefix}-{i}", *one) for i, one in enumerate(drawn)]
    return [figure for figure in found if figure is not None]


def _figure(prefix: str, name: str, svg: str, caption: str) -> Figure | None:
    safe = inline_svg(svg, prefix=f"{prefix}-") if svg else None
    return Figure(name, safe, caption) if safe is not None else None


def _anchor(i: int) -> str:
    return f"attack-{i}"


def _flags(findings: Findings) -> Iterator[Flag]:
    for doubt in findings.integrity.flags:
        yield Flag("the audit", doubt)
    for attack in findings.attacked.attacks:
        for doubt in attack.flags:
            yield Flag(f"attack {attack.method.name}", doubt)


def _open(findings: Findings) -> Iterator[tuple[str, Open]]:
    for one in findings.integrity.not_measured:
        yield "the audit", one
    for attack in findings.attacked.attacks:
        for one in attack.not_measured:
            yield _of(attack), one
    compared = findings.mitigated.compared
    for one in () if isinstance(compared, Missing) else compared.not_measured:
        yield "before and after", one


def _of(attack: Attack) -> str:
    return f"attack {attack.method.name}"


def link(field: str) -> str:
    """The anchor on the page of a field of the findings.

    Example:
        >>> link("scope.subject.terms"), link("review.complaint_contact")
        ('subject', 'review')
    """
    while field not in ANCHORS and "." in field:
        field = field.rpartition(".")[0]
    return ANCHORS.get(field, "answer")


def _frameworks(findings: Findings) -> Iterator[tuple[str, list[tuple[str, str, list[tuple[str, str]]]]]]:
    """Questions by framework, each with the anchors and names of the sections that answer it."""
    by_name: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {}
    for row in findings.frameworks:
        places = [(link(section), re.sub(r"[._]", " ", section)) for section in row.sections]
        by_name.setdefault(row.framework, []).append((row.id, row.question, places))
    yield from by_name.items()


def _seal(opened: Opened) -> list[Row]:
    """Whether the run is sealed and signed; not whether that still fits, which only `amnestic verify` tells."""
    sums, signature = opened(SUMS), opened(SIGNATURE)
    n = len((sums or b"").splitlines())
    return [
        Row("Seal of the run", f"{SUMS}, checksums of {n} files" if sums else f"none: it holds no {SUMS}", not sums),
        Row(
            "Signature of the run",
            f"{SIGNATURE} was there when this was written; a report written into the run renews the seal, so sign last "
            "and check with amnestic verify RUN --public-key FILE"
            if signature else "not signed; amnestic sign RUN --key FILE",
            not signature,
        ),
    ]  # fmt: skip


def _signed(value: float | None, relative: bool, sign: bool = True) -> str:
    return wording.signed_percent(value) if relative else wording.scaled(value, signed=sign)
