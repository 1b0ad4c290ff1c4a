"""Requests of steps whose stages take plain arguments, so that every step of a recipe is asked by a dataclass."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amnestic.attacks.extraction import CliqueExtraction
from amnestic.audit.gate import parse_condition
from amnestic.core.errors import InputError
from amnestic.core.seal import check
from amnestic.core.store import Record
from amnestic.stages import comparing, extraction, gating
from amnestic.stages.inputs import Progress, silent

WRITTEN = (".html", ".json", ".md")
PASS, FAIL = "pass", "fail"


@dataclass(frozen=True, kw_only=True)
class ExtractRequest:
    """What `extract` is asked.

    Attributes:
        run: Folder of a finished audit.
        method: The attack.
    """

    run: Path
    method: CliqueExtraction = field(default_factory=CliqueExtraction)


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """What `gate` is asked.

    Attributes:
        run: Folder of a finished audit.
        fail_on: When the gate fails, such as ``leak_rate.upper_one_sided > 5%``.
        junit: File for the outcome as JUnit XML, or `None`.
    """

    run: Path
    fail_on: tuple[str, ...]
    junit: Path | None = None

    def __post_init__(self) -> None:
        """Refuse expressions that cannot be read."""
        if not self.fail_on:
            raise InputError("expected at least one expression in fail_on, such as leak_rate.upper_one_sided > 5%")
        for text in self.fail_on:
            parse_condition(text)


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What `compare` is asked.

    Attributes:
        before: Folder of a finished audit.
        after: Folder of an audit of another model with the same prompts, seeds and judge.
        out: File for the comparison: HTML, JSON or Markdown by its extension.
        fail_on_regression: Whether a certain rise counts as a failed gate, and too few works as an inconclusive one.
    """

    before: Path
    after: Path
    out: Path
    fail_on_regression: bool = False

    def __post_init__(self) -> None:
        """Refuse files that nothing can be written as."""
        if self.out.suffix not in WRITTEN:
            raise InputError(f"expected out to end in {', '.join(WRITTEN)}, got {self.out.name}; give one of them")


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """What `verify` is asked.

    Attributes:
        run: Folder of a sealed run.
    """

    run: Path


def extract(request: ExtractRequest, *, progress: Progress = silent) -> Record | None:
    """`amnestic.stages.extraction.extract`, asked by a request."""
    return extraction.extract(request.run, request.method, progress=progress)


def gate(request: GateRequest) -> Mapping[str, Any]:
    """`amnestic.stages.gating.gate`, asked by a request."""
    found = gating.gate(request.run, request.fail_on)
    if request.junit is not None:
        gating.write_junit(found, request.junit)
    return found


def compare(request: CompareRequest) -> Mapping[str, Any]:
    """`amnestic.stages.comparing.compare`, asked by a request; says in ``verdict`` what it means for a gate."""
    found = comparing.compare(request.before, request.after)
    comparing.write_comparison(found, request.out)
    verdict = {"regression": FAIL, "inconclusive": "inconclusive"}.get(found["conclusion"], PASS)
    return found | {"verdict": verdict if request.fail_on_regression else "none"}


def verify(request: VerifyRequest) -> Mapping[str, Any]:
    """Whether a run is as it was sealed: ``verdict``, ``said`` and ``differences``."""
    checked = check(request.run)
    found = [str(one) for one in checked.differences]
    said = f"{checked.files} files as they were sealed, digest {checked.digest}"
    if found:
        said = f"not as it was sealed: {', '.join(found[:3])}{f' and {len(found) - 3} more' if found[3:] else ''}"
    return {"verdict": FAIL if found else PASS, "said": said, "differences": found}
