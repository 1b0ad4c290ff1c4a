"""The figure of two audits: by how much each group of works changed."""

from collections.abc import Sequence
from textwrap import shorten

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amnestic.report.comparison_rows import GroupRow, group_row
from amnestic.report.facts import mapping, real
from amnestic.report.figures import BLUE, GREY, ORANGE, WIDTH, as_svg, drawing
from amnestic.report.wording import Facts


def change_figure(groups: Sequence[Facts]) -> str:
    """Change of the memorization rate of each group, with its interval; a rise in orange, a fall in blue.

    Args:
        groups: `amnestic.audit.run_comparison.GroupComparison` as plain data; all works first.

    Returns:
        One ``<svg>`` element; empty text without groups.
    """
    if not groups:
        return ""
    rows = [group_row(group) for group in groups]
    with drawing("change"):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.62 * len(groups)), layout="constrained")
        axes = figure.subplots()
        for i, (group, row) in enumerate(zip(groups, rows, strict=True)):
            _draw(axes, i, mapping(group.get("change")), row)
        axes.set(ylim=(len(groups) - 0.55, -0.75), xlim=(-1.02, 1.02), yticks=[])
        axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["\u2212100", "\u221250", "0", "+50", "+100"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
        axes.set_xlabel("change of the memorization rate, in points")
        names = ", ".join(f"{row.name} {row.change} ({row.change_note})" for row in rows)
        return as_svg(figure, "change", f"Change of the memorization rate in points, with 95 % intervals: {names}.")


def _draw(axes: Axes, place: int, change: Facts, row: GroupRow) -> None:
    middle, low, high = (real(change.get(key)) for key in ("estimate", "lower", "upper"))
    colour = {"rose": ORANGE, "fell": BLUE}.get(row.reading, GREY)
    axes.plot([0, 0], [place - 0.14, place + 0.2], color=GREY, linewidth=1.2)
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=7, alpha=0.4, solid_capstyle="butt")
    if middle is not None:
        axes.plot([middle], [place], "o", color=colour, markersize=8, clip_on=False)
    name = shorten(row.name, 34, placeholder="…") or "…"
    axes.text(-1, place - 0.2, f"{name}: {row.change} ({row.change_note})", ha="left", va="bottom")
