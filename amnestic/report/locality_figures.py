"""Figures of where searches begin and end, what layers say of it, and what pruning leaves, as inline SVG."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from amnestic.report.facts import mapping, real
from amnestic.report.figures import BLUE, GREY, ORANGE, PURPLE, TEAL, WIDTH, as_svg, drawing
from amnestic.report.subspace_figures import short_site
from amnestic.report.wording import NOT_MEASURED, Facts, interval, percent, scaled

Row = Mapping[str, Any]
Mark = tuple[str, str, str, str]
"""Key, words, marker and colour of what is drawn in each layer."""

ACTIVATION_MARKS: tuple[Mark, ...] = (
    ("found", "found, one memorized image", "o", BLUE), ("memorized", "prompts of memorized works", "s", TEAL),
    ("heldout", "found, one held-out image", "D", PURPLE), ("starts", "random starts", "|", GREY),
)  # fmt: skip
AGREEMENT_MARKS: tuple[Mark, ...] = (
    ("within_found", "found, one image", "o", BLUE), ("across_found", "found, different images", "^", ORANGE),
    ("within_memorized", "prompts, memorized", "s", TEAL), ("within_heldout", "found, one held-out", "D", PURPLE),
    ("within_natural", "prompts, ordinary", "|", GREY),
)  # fmt: skip
_LINES = (
    ("attacked", "works, under attack", "o-", BLUE), ("plain", "works, by their prompts", "s-", TEAL),
    ("heldout_attacked", "held-out, under attack", "D--", PURPLE),
)  # fmt: skip


def starts_figure(rows: Sequence[Row]) -> str:
    """Share of random starts that bring each image, with its 95 % interval.

    Args:
        rows: ``{group, work, came}`` with a rate as mapping.

    Returns:
        One ``<svg>`` element; empty text without rows.
    """
    if not rows:
        return ""
    with drawing("starts"):
        figure = Figure(figsize=(WIDTH, 0.95 + 0.62 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for i, row in enumerate(rows):
            rate, colour = mapping(row.get("came")), BLUE if row.get("group") == "memorized" else GREY
            share, low, high = (real(rate.get(key)) for key in ("estimate", "lower", "upper"))
            if low is not None and high is not None:
                axes.plot([low, high], [i, i], color=colour, linewidth=7, alpha=0.4, solid_capstyle="butt")
            if share is not None:
                axes.plot([share], [i], "o", color=colour, markersize=8, clip_on=False)
            note = NOT_MEASURED if share is None else f"{percent(share)} ({interval(rate)})"
            axes.text(0, i - 0.28, f"{_short(row.get('work'))}: {note}", ha="left", va="bottom")
        axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.6, -0.85), yticks=[])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
        axes.set_xlabel("share of random starts; blue: memorized, grey: held-out")
        return as_svg(figure, "starts", f"Share of random starts that bring each of {len(rows)} images.")


def distances_figure(rows: Sequence[tuple[str, Row]], gaussian: float | None) -> str:
    """Quantiles of distances of conditionings, one strip per set.

    Args:
        rows: Name and ``{median, q05, q25, q75, q95}`` of each set.
        gaussian: Distance of two draws from N(0, I), drawn as a line.

    Returns:
        One ``<svg>`` element; empty text without rows.
    """
    if not rows:
        return ""
    with drawing("distances"):
        figure, axes = _layers([f"{_short(name)}  {scaled(real(row.get('median')))}" for name, row in rows])
        for i, (_, row) in enumerate(rows):
            middle, *ends = (real(row.get(key)) for key in ("median", "q05", "q95", "q25", "q75"))
            for (low, high), width in zip((ends[:2], ends[2:]), (2, 8), strict=True):
                if low is not None and high is not None:
                    axes.plot([low, high], [i, i], color=BLUE, linewidth=width, alpha=0.4, solid_capstyle="butt")
            if middle is not None:
                axes.plot([middle], [i], "o", color=BLUE, markersize=6)
        if gaussian is not None:
            axes.axvline(gaussian, color=ORANGE, linewidth=1.6, linestyle="--")
        axes.set_xlim(left=0)
        axes.set_xlabel("distance; dashed: two draws from N(0, I)")
        return as_svg(figure, "distances", f"Distances of conditionings in {len(rows)} sets.")


def map_figure(points: Float[np.ndarray, "M 2"], row: Row, number: int) -> str:
    """Random starts, what was found from them, and ordinary prompts on a plane.

    Args:
        points: Starts, results and prompts, in this order.
        row: ``{how, explained, n, came}``: how many of each there are, and which results bring the image.
        number: Tells several maps on one page apart.

    Returns:
        One ``<svg>`` element.
    """
    n_starts, n_found, _ = (int(n) for n in row["n"])
    starts, found, natural = np.split(points, [n_starts, n_starts + n_found])
    came = np.array(row["came"], dtype=bool)
    name = f"map-{number}"
    with drawing(name):
        figure = Figure(figsize=(WIDTH, 0.95 * WIDTH), layout="constrained")
        axes = figure.subplots()
        for one, other in zip(starts, found, strict=True):
            axes.plot(*zip(one, other, strict=True), color=GREY, alpha=0.35, linewidth=0.7)
        axes.plot(*starts.T, "o", markerfacecolor="none", color=GREY, markersize=5, label="start")
        axes.plot(*natural.T, "^", color=TEAL, markersize=5, label="ordinary prompt")
        axes.plot(*found[~came].T, "x", color=ORANGE, markersize=5, label="found, without the image")
        axes.plot(*found[came].T, "o", color=BLUE, markersize=5, label="found, brings the image")
        shares = row.get("explained") or ()
        labels = [f"axis {k} ({percent(real(s))} of variance)" for k, s in enumerate(shares, start=1)] or ["", ""]
        axes.set(xlabel=labels[0], ylabel=labels[1], xticks=[], yticks=[])
        figure.legend(loc="outside upper center", ncols=2, fontsize=9)
        return as_svg(figure, name, f"{n_starts} starts and what was found from them, beside ordinary prompts.")


def activations_figure(rows: Sequence[Row]) -> str:
    """Per layer, how differently sets of inputs make it speak, in multiples of ordinary prompts.

    Args:
        rows: ``{site, stage, kind, natural, found, memorized, heldout, starts}``; missing values are left out.

    Returns:
        One ``<svg>`` element; empty text without a layer that ordinary prompts were measured in.
    """
    known = [row for row in rows if real(row.get("natural"))]
    scaled_rows = [
        {"site": row.get("site"), "kind": row.get("kind")}
        | {key: value / float(row["natural"]) for key, *_ in ACTIVATION_MARKS if (value := real(row.get(key)))}
        for row in known
    ]
    if not scaled_rows:
        return ""
    with drawing("activations"):
        figure, axes = _layers([f"{short_site(str(r['site']))} {r['kind']}" for r in scaled_rows])
        _dots(axes, scaled_rows, ACTIVATION_MARKS)
        axes.axvline(1, color=GREY, alpha=0.6, linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set(
            major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=FuncFormatter(lambda x, _: f"{x:g}"),
            minor_formatter=NullFormatter(),
        )  # fmt: skip
        axes.set_xlabel("mean distance of activations, ordinary prompts = 1")
        _legend(figure, axes)
        return as_svg(figure, "activations", f"Discrepancy of activations in {len(scaled_rows)} layers.")


def agreement_figure(rows: Sequence[Row], name: str, number: int) -> str:
    """Per layer, mean IoU of the units that single inputs choose, by kind of pair.

    Args:
        rows: ``{site, kinds}`` as the record has them.
        name: Of the localizer.
        number: Tells several figures on one page apart.

    Returns:
        One ``<svg>`` element; empty text without rows.
    """
    values = [
        {key: value for key, *_ in AGREEMENT_MARKS
         if (value := real(mapping(mapping(row.get("kinds")).get(key)).get("mean"))) is not None}
        for row in rows
    ]  # fmt: skip
    if not any(values):
        return ""
    ident = f"agreement-{number}"
    with drawing(ident):
        figure, axes = _layers([short_site(str(row.get("site"))) for row in rows])
        _dots(axes, values, AGREEMENT_MARKS)
        axes.set(xlim=(-0.03, 1.03), xlabel="mean IoU of two inputs' units")
        _legend(figure, axes)
        return as_svg(figure, ident, f"Agreement of units located by {name} in {len(rows)} layers.")


def rounds_figure(rows: Sequence[Row]) -> str:
    """What comes back after each round of pruning, and what is left of ordinary images.

    Args:
        rows: ``{round, plain, attacked, heldout_attacked, likeness}``; missing values are left out.

    Returns:
        One ``<svg>`` element; empty text without rows.
    """
    if not rows:
        return ""
    with drawing("rounds"):
        figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for key, label, style, colour in _LINES:
            _line(above, [real(mapping(row.get(key)).get("estimate")) for row in rows], style, colour, label)
        above.set(title="share that comes back", ylim=(-0.04, 1.06))
        above.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        _line(below, [real(mapping(row.get("likeness")).get("median")) for row in rows], "o-", GREY, "_")
        below.set(title="likeness of ordinary images to the unpruned model's", ylim=(-0.04, 1.06))
        ticks = [f"{row.get('round')}\n{percent(real(row.get('share')))}" for row in rows]
        below.set_xticks(range(len(rows)), ticks)
        below.set_xlabel("round of pruning, and share of weights that are zero")
        for axes in (above, below):
            axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)
        figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
        return as_svg(figure, "rounds", f"What comes back in {len(rows)} models, from the unpruned one on.")


def _layers(names: Sequence[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 1.9 + 0.25 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
    return figure, axes


def _dots(axes: Axes, rows: Sequence[Facts], marks: Sequence[Mark]) -> None:
    for key, label, marker, colour in reversed(marks):
        there = [(value, i) for i, row in enumerate(rows) if (value := real(row.get(key))) is not None]
        bar = marker == "|"
        axes.plot(
            [x for x, _ in there], [y for _, y in there], marker, color=colour, label=label,
            markersize=11 if bar else 6, markeredgewidth=2 if bar else 1,
        )  # fmt: skip


def _legend(figure: Figure, axes: Axes) -> None:
    """What was drawn last, and so on top, is named first."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=2, fontsize=9, handletextpad=0.2)


def _line(axes: Axes, values: Sequence[float | None], style: str, colour: str, label: str) -> None:
    there = [(i, v) for i, v in enumerate(values) if v is not None]
    if there:
        axes.plot([i for i, _ in there], [v for _, v in there], style, color=colour, label=label, clip_on=False)


def _short(name: object, width: int = 26) -> str:
    return shorten(str(name or "without a name"), width, placeholder="…") or "…"
