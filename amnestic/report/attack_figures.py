"""Figures of what an attack brings back: by budget, by work and by radius, as inline SVG."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amnestic.report.facts import listed, mapping, real
from amnestic.report.figures import BLUE, GREY, ORANGE, PURPLE, TEAL, WIDTH, as_svg, drawing
from amnestic.report.wording import Facts

ARMS = {
    "works": "works",
    "heldout": "works never trained on",
    "twin": "same works, model that never saw them",
    "random": "same works, random search",
    "original": "same works, unedited model",
}
ROSE = "#c2577e"
_LINES = {
    "works": (BLUE, "-", "o"), "heldout": (GREY, "-", "s"), "twin": (PURPLE, "-", "D"), "random": (TEAL, ":", "^"),
    "original": (ROSE, "--", "v"),
}  # fmt: skip
_AXES = {"step": "steps of the search", "passes": "passes through the U-Net per work"}


def arm_name(name: str) -> str:
    """What an arm is called on the page."""
    return ARMS.get(name, name)


def budget_figure(
    arms: Mapping[str, Facts], threshold: float | None, *, horizon: float | None = None, over: str = "step"
) -> str:  # fmt: skip
    """Share of works back and mean best score by budget, works above controls, with 95 % bands.

    Args:
        arms: By name ``{curve, passes}``: a list of ``{step, ever, mean}`` with a rate and a mean, and passes by kept
            step.
        threshold: A copy scores above it; drawn where known.
        horizon: Step up to which controls are quiet; drawn where it lies within the budget, over steps alone.
        over: ``step`` or ``passes``.

    Returns:
        One ``<svg>`` element; empty text where no arm has two points, or no passes were counted.
    """
    lines = {name: found for name, arm in arms.items() if len((found := _points(arm, over))[0]) > 1}
    last = max((places[-1] for places, _ in lines.values()), default=0.0)
    if not last:
        return ""
    with drawing(f"budget-{over}"):
        figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for name, (places, points) in reversed(lines.items()):
            _draw_line(above, name, places, [mapping(p.get("ever")) for p in points])
            _draw_line(below, name, places, [mapping(p.get("mean")) for p in points])
        above.set(title="works that came back", ylim=(-0.04, 1.06))
        above.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        below.set_title("mean best similarity")
        if threshold is not None:
            below.axhline(threshold, color=ORANGE, linewidth=1.6, linestyle="--", label=f"threshold {threshold:.3g}")
        if horizon is not None and over == "step" and horizon < last:
            for axes in (above, below):
                axes.axvline(horizon, color=ORANGE, linewidth=1.2, linestyle=":")
            below.plot([], [], ":", color=ORANGE, linewidth=1.2, label=f"controls quiet up to step {horizon:g}")
        below.set(xlabel=_AXES[over], xlim=(-0.02 * last, 1.02 * last))
        below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(figure, below)
        return as_svg(figure, f"budget-{over}", f"Recovery by budget for {', '.join(map(arm_name, lines))}.")


def steps_figure(arms: Mapping[str, Facts]) -> str:
    """When works came back: share of works by the first kept step at which they were, and of those that never were.

    Args:
        arms: By name ``{hidden, works}``: a list of ``{step, found, hidden}`` with a rate, and one entry per work.

    Returns:
        One ``<svg>`` element, only of arms that kept the same steps as the first one; empty text without any.
    """
    rows = {name: listed(arm.get("hidden")) for name, arm in arms.items()}
    steps = [row.get("step") for row in next(iter(rows.values()), [])]
    rows = {name: found for name, found in rows.items() if found and [row.get("step") for row in found] == steps}
    if not rows:
        return ""
    with drawing("first-steps"):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        wide = 0.8 / len(rows)
        for i, (name, found) in enumerate(rows.items()):
            n = max(len(listed(arms[name].get("works"))), 1)
            last = real(mapping(found[-1].get("hidden")).get("estimate")) or 0.0
            shares = [(real(row.get("found")) or 0.0) / n for row in found] + [last]
            places = [place - 0.4 + (i + 0.5) * wide for place in range(len(shares))]
            axes.bar(places, shares, width=0.9 * wide, color=_LINES.get(name, (GREY,))[0], label=arm_name(name))
        axes.set_xticks(range(len(steps) + 1), [*(f"{s}" for s in steps), "not\nback"])
        axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.set(ylim=(0, 1.02), xlabel="first kept step at which a work is back", title="share of works")
        axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)
        _legend(figure, axes)
        return as_svg(figure, "first-steps", f"When works came back, for {', '.join(map(arm_name, rows))}.")


def radius_figure(sweeps: Mapping[str, Facts], threshold: float | None) -> str:
    """Share of works back and mean best score by how far the input may move.

    Args:
        sweeps: By arm ``{points}``, a list of ``{radius, ever, mean}`` with a rate and a mean.
        threshold: A copy scores above it; drawn where known.

    Returns:
        One ``<svg>`` element; empty text without a point.
    """
    lines = {name: points for name, sweep in sweeps.items() if (points := listed(sweep.get("points")))}
    if not lines:
        return ""
    with drawing("radius"):
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for name, points in reversed(lines.items()):
            places = [real(p.get("radius")) or 0.0 for p in points]
            _draw_line(above, name, places, [mapping(p.get("ever")) for p in points])
            _draw_line(below, name, places, [mapping(p.get("mean")) for p in points])
        above.set(title="works that came back within the radius", ylim=(-0.04, 1.06))
        above.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        below.set(title="mean best similarity", xlabel="radius, in median distances of ordinary prompts")
        if threshold is not None:
            below.axhline(threshold, color=ORANGE, linewidth=1.6, linestyle="--", label=f"threshold {threshold:.3g}")
        _legend(figure, below)
        return as_svg(figure, "radius", f"Recovery by radius for {', '.join(map(arm_name, lines))}.")


def _points(arm: Facts, over: str) -> tuple[list[float], list[Facts]]:
    """Places on the axis and points of a curve, those that have a place."""
    points, passes = listed(arm.get("curve")), list(arm.get("passes") or ())
    places = [real(p.get("step")) for p in points] if over == "step" else [real(p) for p in passes]
    if len(places) != len(points):
        return [], []
    known = [(x, p) for x, p in zip(places, points, strict=True) if x is not None]
    return [x for x, _ in known], [p for _, p in known]


def _draw_line(axes: Axes, name: str, places: Sequence[float], values: Sequence[Facts]) -> None:
    colour, style, marker = _LINES.get(name, (GREY, "-", "o"))
    found = [
        (x, real(v.get("estimate")), real(v.get("lower")), real(v.get("upper")))
        for x, v in zip(places, values, strict=True)
    ]
    known = [(x, y) for x, y, _, _ in found if y is not None]
    band = [(x, low, high) for x, _, low, high in found if low is not None and high is not None]
    if band:
        across, low, high = zip(*band, strict=True)
        axes.fill_between(across, low, high, color=colour, alpha=0.16, linewidth=0)
    wide = 2.4 if name == "works" else 1.5
    axes.plot(
        [x for x, _ in known], [y for _, y in known], style, marker=marker, markersize=5, color=colour, linewidth=wide,
        label=arm_name(name), clip_on=False,
    )  # fmt: skip
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: _rank(labels[i]))
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower left", fontsize=10,
        handlelength=2.2,
    )  # fmt: skip


def _rank(label: str) -> int:
    names = list(ARMS.values())
    return names.index(label) if label in names else len(names)
