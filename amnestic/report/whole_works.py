"""Works one by one: scores under ordinary prompts and under attack, pictures, hashes."""

from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.findings import Findings
from amnestic.report.findings_ordinary import Pair, Work
from amnestic.report.findings_parts import Missing
from amnestic.report.whole_pictures import Sources, Tile, tiles_of

MOST = 100
"""Works that are shown with pictures, the highest scores first; the rest is in the table."""


class UnderAttack(NamedTuple):
    """What one attack did to a work.

    Attributes:
        attack: Its name.
        before: Score before the search.
        after: Best score by its end.
        outcome: Whether and when it came back.
        back: Whether it did.
    """

    attack: str
    before: str
    after: str
    outcome: str
    back: bool


class WorkShown(NamedTuple):
    """One work.

    Attributes:
        id: Anchor on the page.
        work: What was found.
        label: In words.
        pair: Where its decisive image and its original are, or `None`.
        attacks: What attacks did.
        tiles: Pictures; empty where none are shown.
    """

    id: str
    work: Work
    label: str
    pair: Pair | None
    attacks: tuple[UnderAttack, ...]
    tiles: tuple[Tile, ...]

    @property
    def counted(self) -> str:
        """Images above the threshold, of all."""
        return f"{self.work.seeds_above} of {self.work.seeds}"

    @property
    def paths(self) -> tuple[tuple[str, str], ...]:
        """Where both pictures lie."""
        return (("Image", self.pair.image), ("Original", self.pair.original)) if self.pair else ()


def works_of(findings: Findings, sources: Sources) -> list[WorkShown]:
    """Every tested work, the highest score first.

    Args:
        findings: The document.
        sources: What opens pictures.
    """
    pairs = {pair.work: pair for pair in findings.evidence.pairs}
    return [
        WorkShown(
            id=f"work-{i}", work=work, label=wording.named(work.label), pair=pairs.get(work.work),
            attacks=_attacks(findings, work.work),
            tiles=tiles_of(pairs[work.work], sources) if i <= MOST and work.work in pairs else (),
        )
        for i, work in enumerate(findings.ordinary.works, start=1)
    ]  # fmt: skip


def _attacks(findings: Findings, work: str) -> tuple[UnderAttack, ...]:
    found = []
    for attack in findings.attacked.attacks:
        rows = (row for arm in attack.arms if arm.name == "works" for row in arm.results if row.work == work)
        for row in rows:
            back = row.step is not None
            found.append(UnderAttack(
                attack=attack.method.name, before=wording.number(row.before), after=wording.number(row.after),
                outcome=_outcome(row.step), back=back,
            ))  # fmt: skip
    return tuple(found)


def _outcome(step: int | None) -> str:
    return "not back" if step is None else f"back at step {step}" if step else "back without a search"


def what_pictures_show(findings: Findings, sources: Sources) -> str:
    """What stands beside each other on a card, and what was left out."""
    told = "Originals were not opened, as no --references folder was given. " if sources.originals is None else ""
    if sources.before is None and not isinstance(findings.mitigated.compared, Missing):
        run = findings.mitigated.compared.before_run
        told += f"Images from before the mitigation were not opened; --before FOLDER of the run “{run}” adds them. "
    return told.strip()
