"""Every rate of the findings in one list, works beside their controls: what tables and exports show."""

from collections.abc import Iterator
from typing import NamedTuple

from amnestic.report import wording
from amnestic.report.findings import Findings
from amnestic.report.findings_parts import Missing, Rate


class Rated(NamedTuple):
    """One rate: to which finding it belongs, what happened, to whom, and whether it is a control."""

    finding: str
    what: str
    whose: str
    control: bool
    rate: Rate

    @property
    def counted(self) -> str:
        """Events and works, or "not measured"; a share of images is no count of works."""
        if self.rate.estimate is None:
            return wording.NOT_MEASURED
        if self.what.startswith("images"):
            return f"{self.rate.n} works"
        return f"{round(self.rate.estimate * self.rate.n)} of {self.rate.n}"


def rates_of(findings: Findings) -> Iterator[Rated]:
    """Every rate over works: ordinary prompts, attacks, mitigation, each followed by its controls.

    Args:
        findings: The document.
    """
    one = findings.ordinary
    yield Rated("ordinary", "replicated, best of the seeds", "all works", control=False, rate=one.rate)
    if not isinstance(one.rate_by_median, Missing):
        yield Rated("ordinary", "replicated, median over seeds", "all works", control=False, rate=one.rate_by_median)
    if not isinstance(one.images, Missing):
        yield Rated("ordinary", "images above the threshold", "all works", control=False, rate=one.images)
    for group in one.by_label:
        yield Rated("ordinary", "replicated, best of the seeds", wording.named(group.name), False, group.rate)
    for control in findings.scope.controls.groups:
        yield Rated("ordinary", "above the threshold", wording.named(control.name), control=True, rate=control.rate)
    for attack in findings.attacked.attacks:
        for arm in attack.arms:
            apart = arm.name in ("heldout", "twin", "random")
            yield Rated("attacked", f"back by the end of {attack.method.name}", arm.meaning, apart, arm.back)
    compared = findings.mitigated.compared
    for row in () if isinstance(compared, Missing) else compared.rates:
        apart = row.group.startswith(("held", "base"))
        yield Rated("mitigated", "replicated before", row.group, control=apart, rate=row.before)
        yield Rated("mitigated", "replicated after", row.group, control=apart, rate=row.after)
