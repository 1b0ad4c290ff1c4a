"""Figures as inline SVG: they take the page's text colour, need no font file and are the same every time."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any
from xml.sax.saxutils import escape

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amnestic.report.wording import NOT_MEASURED, Facts, interval, named, percent, rate_of, upper_bound

BLUE, ORANGE, TEAL, PURPLE, GREY = "#3d85c6", "#d27a2c", "#2b9a8b", "#9068be", "#858c96"
COLOURS = (BLUE, TEAL, PURPLE, GREY)
_SIDES = ((GREY, "before"), (BLUE, "after"))
_INK = "#0a0b0c"  # stands for the page's text colour until the SVG is written
WIDTH = 5.0  # inches; narrow, so that text stays readable on a phone
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 11,
    "text.color": _INK, "axes.labelcolor": _INK, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
    "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "axes.titlesize": 11, "axes.labelsize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.axisbelow": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
}  # fmt: skip


def ladder_figure(ladder: Sequence[Facts], *, threshold: float | None = None) -> str:
    """Mean similarity with its interval, and share of works replicated, for each rung.

    Args:
        ladder: Rows of ``{rung, works, mean_score, lower, upper, leak_rate}``; missing values stay empty.
        threshold: Score above which a work counts as replicated, drawn as a line.

    Returns:
        One ``<svg>`` element; empty text without rungs.
    """
    if not ladder:
        return ""
    with drawing("ladder"):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_mean_scores(above, ladder, threshold)
        _draw_rung_rates(below, ladder)
        ticks = [f"{row.get('rung')}\nn={row.get('works', '?')}" for row in ladder]
        below.set_xticks(range(len(ladder)), ticks)
        below.set_xlim(-0.6, len(ladder) - 0.4)
        below.set_xlabel("rung (higher was seen more often), n = works")
        return as_svg(figure, "ladder", f"Similarity and memorization rate on {len(ladder)} rungs.")


def histogram_figure(scores: Mapping[str, Sequence[float]], threshold: float | None) -> str:
    """Similarities of each group on one scale, one strip per group.

    Args:
        scores: Group -> similarities in [-1, 1]; values that are not finite are left out.
        threshold: Score above which an image counts as a copy, drawn through all strips.

    Returns:
        One ``<svg>`` element; empty text without groups.
    """
    if not scores:
        return ""
    groups = {name: [v for v in values if math.isfinite(v)] for name, values in scores.items()}
    seen = [v for values in groups.values() for v in values] + [0.0, 1.0]
    first, last = math.floor(min(seen) * 20), math.ceil(max(seen) * 20)
    edges = [step / 20 for step in range(first, last + 1)]
    with drawing("histogram"):
        figure = Figure(figsize=(WIDTH, 1.1 + 0.95 * len(groups)), layout="constrained")
        strips = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        for i, (strip, (name, values)) in enumerate(zip(strips, groups.items(), strict=True)):
            _draw_strip(strip, f"{named(name)}, n = {len(values)}", values, edges, COLOURS[i % len(COLOURS)])
            _draw_threshold(strip, threshold, vertical=True)
        strips[-1].set_xlabel("similarity (cosine)" + _threshold_note(threshold))
        return as_svg(figure, "histogram", f"Histograms of similarity for {', '.join(map(named, groups))}.")


def leak_figure(rates: Mapping[str, Facts | None]) -> str:
    """Memorization rates with their 95 % intervals, works above controls.

    Args:
        rates: Group -> rate as mapping, or `None` when it was not measured.

    Returns:
        One ``<svg>`` element; empty text without groups.
    """
    if not rates:
        return ""
    with drawing("leak"):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.62 * len(rates)), layout="constrained")
        axes = figure.subplots()
        for i, (name, rate) in enumerate(rates.items()):
            _draw_rate(axes, i, rate_of(rate), BLUE if i == 0 else GREY)
            facts = rate_of(rate) or {}
            axes.text(0, i - 0.28, f"{named(name)}: {_rate_note(facts)}", ha="left", va="bottom")
        _draw_share_axis(axes, bottom=len(rates) - 0.6, top=-0.85)
        return as_svg(figure, "leak", f"Memorization rates with intervals for {', '.join(map(named, rates))}.")


def before_after_figure(rates: Sequence[Facts]) -> str:
    """Memorization rates of each group before an edit (grey) and after it (blue), with their 95 % intervals.

    Args:
        rates: Rows of ``{group, works, before, after}`` with two rates as mappings, or `None` when not measured.

    Returns:
        One ``<svg>`` element; empty text without groups.
    """
    if not rates:
        return ""
    names = [named(str(row.get("group", ""))) for row in rates]
    with drawing("before-after"):
        figure = Figure(figsize=(WIDTH, 1.25 + 0.72 * len(rates)), layout="constrained")
        axes = figure.subplots()
        for i, (name, row) in enumerate(zip(names, rates, strict=True)):
            _draw_rate(axes, i, rate_of(row.get("before")), GREY)
            _draw_rate(axes, i + 0.22, rate_of(row.get("after")), BLUE)
            before, after = (_share_note(rate_of(row.get(side)) or {}) for side in ("before", "after"))
            note = f"{shorten(name, 34, placeholder='…') or '…'}: {before} → {after}"
            axes.text(0, i - 0.2, note, ha="left", va="bottom")
        handles = [Line2D([], [], color=c, marker="o", linewidth=7, alpha=0.6, label=side) for c, side in _SIDES]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        _draw_share_axis(axes, bottom=len(rates) - 0.45, top=-0.75)
        return as_svg(figure, "before-after", f"Memorization rates before and after the edit for {', '.join(names)}.")


def _draw_mean_scores(axes: Axes, ladder: Sequence[Facts], threshold: float | None) -> None:
    for i, row in enumerate(ladder):
        lower, mean, upper = (finite(row.get(key)) for key in ("lower", "mean_score", "upper"))
        if lower is not None and upper is not None:
            axes.plot([i, i], [lower, upper], color=BLUE, linewidth=6, alpha=0.4, solid_capstyle="round")
        if mean is None:
            axes.text(i, 0.02, NOT_MEASURED, ha="center", va="bottom", rotation=90, fontsize=9)
        else:
            axes.plot([i], [mean], "o", color=BLUE, markersize=7)
    _draw_threshold(axes, threshold, vertical=False)
    axes.set_title("mean similarity" + _threshold_note(threshold))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0), max(high, 1))
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)


def _draw_rung_rates(axes: Axes, ladder: Sequence[Facts]) -> None:
    for i, row in enumerate(ladder):
        rate = rate_of(row) or {}
        share, lower, upper = (finite(rate.get(key)) for key in ("estimate", "lower", "upper"))
        if share is None:
            axes.text(i, 0.03, NOT_MEASURED, ha="center", va="bottom", rotation=90, fontsize=9)
            continue
        if lower is not None and upper is not None:
            axes.plot([i, i], [lower, upper], color=TEAL, linewidth=6, alpha=0.4, solid_capstyle="round")
        axes.plot([i], [share], "o", color=TEAL, markersize=7, clip_on=False)
    axes.set_title("memorization rate")
    axes.set_ylim(-0.04, 1.06)
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)


def _draw_strip(axes: Axes, title: str, values: Sequence[float], edges: Sequence[float], colour: str) -> None:
    if values:
        axes.hist(values, bins=list(edges), color=colour, alpha=0.8)
    else:
        axes.text(0.5, 0.4, NOT_MEASURED, ha="center", transform=axes.transAxes)
        axes.set_ylim(0, 1)
    axes.set_title(title, pad=3)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_threshold(axes: Axes, threshold: float | None, *, vertical: bool) -> None:
    if finite(threshold) is not None and threshold is not None:
        line = axes.axvline if vertical else axes.axhline
        line(threshold, color=ORANGE, linewidth=1.6, linestyle="--")


def _draw_rate(axes: Axes, row: float, rate: Facts | None, colour: str) -> None:
    share, lower, upper = (finite((rate or {}).get(key)) for key in ("estimate", "lower", "upper"))
    if lower is not None and upper is not None:
        axes.plot([lower, upper], [row, row], color=colour, linewidth=7, alpha=0.4, solid_capstyle="butt")
    if share is not None:
        axes.plot([share], [row], "o", color=colour, markersize=8, clip_on=False)


def _draw_share_axis(axes: Axes, *, bottom: float, top: float) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(bottom, top), yticks=[])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
    axes.set_xlabel("share of works above the threshold")


def _share_note(rate: Facts) -> str:
    """The share alone, or the bound that stands for it when there was no event."""
    if rate.get("estimate") == 0 and upper_bound(rate) != NOT_MEASURED:
        return f"0 % (up to {upper_bound(rate)})"
    return percent(finite(rate.get("estimate")))


def _rate_note(rate: Facts) -> str:
    if finite(rate.get("estimate")) is None:
        return NOT_MEASURED
    if rate.get("estimate") == 0 and upper_bound(rate) != NOT_MEASURED:
        return f"0 %, upper bound {upper_bound(rate)}"
    return f"{percent(rate.get('estimate'))} ({interval(rate)})"


def _threshold_note(threshold: float | None) -> str:
    return "" if finite(threshold) is None else f"; dashed: threshold {threshold:.3g}"


def finite(value: float | None) -> float | None:
    """The value, or `None` when it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Draw in this room's style alone, whatever the user's matplotlib is set to, and put that back afterwards."""
    with rc_context(), warnings.catch_warnings():
        # The reader's own fonts draw the text, so what matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        rcdefaults()
        rcParams.update(_STYLE | {"svg.hashsalt": f"amnestic-{name}"})
        yield


def as_svg(figure: Figure, name: str, meaning: str) -> str:
    """Write a figure, prefix its ids so that several fit on one page, and let text take the page's colour."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"^.*?(?=<svg)", "", written.getvalue(), flags=re.DOTALL).strip()
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace(_INK, "currentColor")
    title = f'<title id="{name}-title">{escape(meaning)}</title>'
    opened, body = text.split(">", 1)
    return f'{opened} role="img" aria-labelledby="{name}-title">\n {title}{body}'
