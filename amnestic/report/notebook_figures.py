"""Figures that a notebook shows of a single record: where units lie, and how losses fall."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from amnestic.report.figures import COLOURS, GREY, WIDTH, as_svg, drawing
from amnestic.report.subspace_figures import short_site
from amnestic.report.wording import Facts, percent

MOST_POINTS = 200
"""A longer curve is shown by means over as many equal parts."""


def layers_figure(name: str, sites: Sequence[Facts], counts: Mapping[str, int]) -> str:
    """How much of each layer was chosen: a bar for its share, and the number beside it.

    Args:
        name: What chose.
        sites: ``{name, shape}`` of each layer that was searched, in order of computation.
        counts: Units chosen by the layer's name.

    Returns:
        One ``<svg>`` element; empty text without layers.
    """
    if not sites:
        return ""
    chosen = [int(counts.get(site["name"], 0)) for site in sites]
    shares = [n / math.prod(site["shape"]) for n, site in zip(chosen, sites, strict=True)]
    end = max([*shares, 1e-9]) * 1.25
    with drawing("layers"):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.27 * len(sites)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(sites)), shares, color=COLOURS[0], height=0.7)
        for place, (n, share) in enumerate(zip(chosen, shares, strict=True)):
            axes.text(share + 0.01 * end, place, f"{n:,}", va="center", fontsize=9)
        axes.set_yticks(range(len(sites)), [short_site(str(site["name"])) for site in sites], fontsize=9)
        axes.set(xlim=(0, end), ylim=(len(sites) - 0.4, -0.6), xlabel="share of the layer; beside it the number")
        axes.xaxis.set(major_locator=MaxNLocator(4), major_formatter=FuncFormatter(lambda x, _: percent(x)))
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
        return as_svg(figure, "layers", f"Units chosen by {name} in {len(sites)} layers.")


def losses_figure(curves: Mapping[str, Sequence[float]]) -> str:
    """Losses by step of training, one panel each, since their scales differ.

    Args:
        curves: Loss -> value per step; values that are not finite leave a gap.

    Returns:
        One ``<svg>`` element; empty text without a curve.
    """
    known = {name: [float(v) for v in values] for name, values in curves.items() if len(values)}
    if not known:
        return ""
    with drawing("losses"):
        figure = Figure(figsize=(WIDTH, 0.9 + 1.5 * len(known)), layout="constrained")
        panels = figure.subplots(len(known), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, values)) in enumerate(zip(panels, known.items(), strict=True)):
            places, means = _thinned(values)
            axes.plot(places, means, color=COLOURS[i % len(COLOURS)], linewidth=1.6)
            axes.set_title(name)
            axes.set_ylim(bottom=min(0.0, *(m for m in means if math.isfinite(m)), 0.0))
            axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)
            axes.yaxis.set_major_locator(MaxNLocator(3))
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return as_svg(figure, "losses", f"Losses by step: {', '.join(known)}.")


def _thinned(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Places and values, as means over equal parts where there are many."""
    part = -(-len(values) // MOST_POINTS)
    cuts = [list(values[i : i + part]) for i in range(0, len(values), part)]
    places = [i * part + 1 + (len(cut) - 1) / 2 for i, cut in enumerate(cuts)]
    return places, [sum(cut) / len(cut) for cut in cuts]
