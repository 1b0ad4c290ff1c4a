"""Figures of the whole report: every rate at one glance, and the figures of other pages from the findings."""

from collections.abc import Sequence
from textwrap import shorten
from typing import NamedTuple

from matplotlib.figure import Figure

from amnestic.report import wording
from amnestic.report.attack_figures import budget_figure, radius_figure
from amnestic.report.attack_rows import counted
from amnestic.report.figures import BLUE, GREY, as_svg, before_after_figure, drawing, ladder_figure, leak_figure
from amnestic.report.findings import Findings
from amnestic.report.findings_attacked import Arm, Attack
from amnestic.report.findings_parts import Missing, Rate
from amnestic.report.whole_answer import CONTROL_ARMS, all_works, strongest

WIDE = 7.0  # inches


class Glance(NamedTuple):
    """One line of the figure.

    Attributes:
        finding: Heading above it; the same for lines of one finding.
        name: Whose rate.
        rate: The rate.
        control: Whether it is a control.
    """

    finding: str
    name: str
    rate: Rate
    control: bool


def glances(findings: Findings) -> list[Glance]:
    """The rates of the three findings, each with its controls; what was not measured is left out.

    Args:
        findings: The document.
    """
    one = findings.ordinary
    found = [Glance("1  Ordinary prompts", "works", one.rate, control=False)]
    controls = findings.scope.controls.groups
    found += [Glance(found[0].finding, f"{wording.named(c.name)} (control)", c.rate, control=True) for c in controls]
    attack = strongest(findings)
    for arm in attack.arms if attack else ():
        finding = f"2  Under attack ({attack.method.name})" if attack else ""
        control = arm.name in CONTROL_ARMS
        found.append(Glance(finding, arm.meaning + " (control)" * control, arm.back, control))
    row = all_works(findings)
    if row is not None:
        found.append(Glance("3  After the mitigation", "works, before it", row.before, control=False))
        found.append(Glance("3  After the mitigation", "works, after it", row.after, control=False))
    return [line for line in found if line.rate.estimate is not None]


def glance_figure(lines: Sequence[Glance]) -> str:
    """Rates with their 95 % intervals, grouped by finding; works in blue, controls in grey squares.

    Args:
        lines: Of `glances`.

    Returns:
        One ``<svg>`` element; empty text without lines.
    """
    if not lines:
        return ""
    heads = list(dict.fromkeys(line.finding for line in lines))
    rows = len(lines) + len(heads)
    with drawing("glance"):
        figure = Figure(figsize=(WIDE, 0.75 + 0.33 * rows), layout="constrained")
        axes, row = figure.subplots(), 0
        for head in heads:
            axes.text(-0.02, row, head, ha="right", va="center", fontweight="bold", fontsize=10.5)
            row += 1
            for line in (line for line in lines if line.finding == head):
                _draw(axes, row, line)
                row += 1
        axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6), yticks=[], xlabel="share of works, with 95 % interval")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
        told = "; ".join(f"{line.finding[3:]}, {line.name}: {counted(line.rate.model_dump())}" for line in lines)
        return as_svg(figure, "glance", f"Rates with intervals. {told}.")


def _draw(axes: object, row: int, line: Glance) -> None:
    rate, colour = line.rate, GREY if line.control else BLUE
    if rate.lower is not None and rate.upper is not None:
        axes.plot([rate.lower, rate.upper], [row, row], color=colour, linewidth=6, alpha=0.4, solid_capstyle="butt")  # type: ignore[attr-defined]
    axes.plot([rate.estimate], [row], "s" if line.control else "o", color=colour, markersize=7, clip_on=False)  # type: ignore[attr-defined]
    axes.text(-0.02, row, shorten(line.name, 36, placeholder="…") or "…", ha="right", va="center", fontsize=9.5)  # type: ignore[attr-defined]
    axes.text(1.03, row, counted(rate.model_dump()), ha="left", va="center", fontsize=9.5)  # type: ignore[attr-defined]


def ordinary_figures(findings: Findings) -> list[tuple[str, str, str]]:
    """Name, drawing and caption of what belongs to the first finding."""
    one = findings.ordinary
    rates = {"works": one.rate.model_dump()}
    rates |= {control.name: control.rate.model_dump() for control in findings.scope.controls.groups}
    ladder = [
        {"rung": r.rung, "works": r.works, "mean_score": r.score.estimate, "lower": r.score.lower,
         "upper": r.score.upper, "leak_rate": r.rate.model_dump()} for r in one.ladder
    ]  # fmt: skip
    return [
        ("Rates with intervals.", leak_figure(rates),
         "The dot is what was counted, the band where the true rate may lie."),
        ("Ladder.", ladder_figure(ladder, threshold=findings.methodology.detector.threshold) if len(ladder) > 1 else "",
         "Works on a higher rung were seen more often in training."),
    ]  # fmt: skip


def attack_figures(attack: Attack) -> list[tuple[str, str, str]]:
    """Name, drawing and caption of what belongs to one attack."""
    arms = {arm.name: _curve(arm) for arm in attack.arms}
    gap = next(iter(attack.comparisons), None)
    quiet = None if gap is None or gap.quiet_until is None else float(gap.quiet_until)
    sweeps = {
        name: {"points": [{"radius": p.radius, "ever": p.rate.model_dump()} for p in attack.radius if p.arm == name]}
        for name in dict.fromkeys(p.arm for p in attack.radius)
    }
    return [
        ("Recovery by budget.", budget_figure(arms, attack.threshold, horizon=quiet),
         "Works above their controls, attacked with the same budget. What controls reach says nothing about memory."),
        ("Recovery by passes.", budget_figure(arms, attack.threshold, over="passes"),
         "The same by what the search costs an adversary."),
        ("Recovery by radius.", radius_figure(sweeps, attack.threshold),
         "How far an input must move from an ordinary prompt."),
    ]  # fmt: skip


def mitigated_figures(findings: Findings) -> list[tuple[str, str, str]]:
    """Name, drawing and caption of what belongs to the third finding."""
    compared = findings.mitigated.compared
    if isinstance(compared, Missing):
        return []
    rows = [
        {"group": r.group, "works": r.works, "before": r.before.model_dump(), "after": r.after.model_dump()}
        for r in compared.rates
    ]
    return [("Before and after.", before_after_figure(rows), "The same works, prompts and seeds on both models.")]


def _curve(arm: Arm) -> dict[str, object]:
    points = [
        {"step": p.step, "ever": p.ever.model_dump(), "mean": p.score.model_dump()} for p in arm.curve
    ]  # fmt: skip
    passes = [p.passes for p in arm.curve]
    return {"curve": points, "passes": [] if None in passes else passes}
