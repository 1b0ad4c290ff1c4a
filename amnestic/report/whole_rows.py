"""Fields of the findings as rows of tables: a name, a text, and whether the text stands for something missing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from amnestic.report import wording
from amnestic.report.findings import Findings
from amnestic.report.findings_parts import NOT_GIVEN, Difference, Mean, Method, Missing, Part, Rate

_KEY = re.compile(r"with the key '(\w+)'")

LABELS = {
    "dtype": "Precision", "digest": "SHA-256 over all weights", "conflict": "Conflicts of interest",
    "scheduler_settings": "Sampling settings", "safety_filters_in_test": "Safety filters in the test",
    "safety_filters_in_use": "Safety filters in use", "terms": "Terms of use", "client": "Client",
    "prompts_digest": "SHA-256 over the prompts", "seeds": "Seeds", "rates": "Rates and bounds",
    "human_review": "Review by people", "rights": "Basis on which originals are used",
    "membership": "How membership is known", "images": "Originals", "model": "Model", "matching": "How matched",
    "coincidence": "Coincidence", "excess": "Excess over held-out works", "why": "Why this one",
    "n_null": "Null pairs", "false_positive_rate": "False-positive rate", "prompts": "Prompts in all",
    "unit": "What is counted", "settings_digest": "SHA-256 over the settings", "training_data": "Training data",
    "set_by": "Limit set by", "reason": "Why this limit", "observed": "Observed bound", "expression": "Gate",
    "complaint_contact": "Complaints go to", "complaint_reference": "Answers the complaint",
    "provenance": "Where the threshold comes from", "description": "Description of the set",
}  # fmt: skip


SHARES = ("share", "limit", "observed", "false_positive_rate")


class Row(NamedTuple):
    """One line of a table.

    Attributes:
        name: What it is.
        text: The value, or what stands for it.
        missing: Whether the value is missing.
    """

    name: str
    text: str
    missing: bool = False


def rows_of(part: Part, *names: str, **labels: str) -> list[Row]:
    """Rows of the named fields, or of all.

    Args:
        part: A piece of the findings.
        *names: Its fields, in the order of the table.
        **labels: Names to be shown instead of the usual ones.
    """
    found = []
    for name in names or type(part).model_fields:
        value = getattr(part, name)
        text, missing = (wording.percent(value), False) if _is_share(name, value) else said(value)
        usual = LABELS.get(name, name.replace("_", " ").capitalize())
        found.append(Row(name=labels.get(name, usual), text=text, missing=missing))
    return found


def _is_share(name: str, value: object) -> bool:
    return name in SHARES and isinstance(value, float)


def said(value: object) -> tuple[str, bool]:
    """A value as text, and whether it is missing.

    Example:
        >>> said(("a", 2)), said(Missing(state="not measured", why="no model"))
        (('a, 2', False), ('not measured: no model', True))
    """
    if isinstance(value, Missing):
        given_by_person = value.state == NOT_GIVEN and _KEY.search(value.why)
        return (value.state if given_by_person else f"{value.state}: {value.why}"), True
    if value is None or value == "" or value == ():
        return "none", True
    return _text(value), False


def absent_keys(findings: Findings) -> list[str]:
    """Keys of the auditor file that nobody filled in, in the order of the document."""
    return list(dict.fromkeys(_absent(findings.model_dump())))


def _absent(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        found = _KEY.search(str(value.get("why"))) if value.get("state") == NOT_GIVEN else None
        if found:
            yield found[1]
        for inner in value.values():
            yield from _absent(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _absent(inner)


def _text(value: Any) -> str:  # noqa: ANN401 - any value of the findings
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Rate):
        return f"{wording.percent(value.estimate)} ({wording.interval(value.model_dump())}; n = {value.n})"
    if isinstance(value, (Mean, Difference)):
        signed = isinstance(value, Difference)
        ends = [wording.scaled(end, signed=signed) for end in (value.lower, value.upper)]
        return f"{wording.scaled(value.estimate, signed=signed)} (95\u00a0% interval {' to '.join(ends)})"
    if isinstance(value, Method):
        return value.name + (f": {_text(value.parameters)}" if value.parameters else "")
    if isinstance(value, BaseModel):
        return _text(value.model_dump())
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_inner(found)}" for name, found in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_inner, value)) or "none"
    return str(value)


def _inner(value: object) -> str:
    return "default" if value is None else _text(value)
