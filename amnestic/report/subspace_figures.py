"""Figures of where masks lie, how they overlap and how they grow, as inline SVG."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from amnestic.report.figures import BLUE, GREY, ORANGE, PURPLE, TEAL, WIDTH, as_svg, drawing, finite
from amnestic.report.wording import NOT_MEASURED, percent

Row = Mapping[str, Any]
Values = Sequence[Sequence[float | None]]

_STAGES = ("down", "mid", "up")
_GAP = 0.35  # between groups of rows, in rows
_COLOURS = colormaps["viridis"].resampled(40)  # both ends stand out on light and dark pages; few, so stay vectors
_BRIGHT, _DARK = "#ffffff", "#16181c"
_MOST_NUMBERS = 12  # sets up to which the matrix shows numbers, too
_LEVEL = 0.05
_KINDS = (
    ("within_memorized", "memorized with memorized", "o", BLUE),
    ("with_controls", "memorized with control", "s", TEAL),
    ("within_controls", "control with control", "D", PURPLE),
    ("random", "chance, memorized sizes", "|", GREY),
)


def short_site(name: str) -> str:
    """Where a layer is, in a few letters: stage, block and transformer.

    Args:
        name: Path of a module in a U-Net; any other name stays, cut to 16 characters.

    Returns:
        Such as "down 0.1"; a third number is the block within a transformer of several.

    Example:
        >>> short_site("down_blocks.0.attentions.1.transformer_blocks.0.ff.net.2")
        'down 0.1'
        >>> short_site("mid_block.attentions.0.transformer_blocks.0.attn2.to_v"), short_site("all layers")
        ('mid', 'all layers')
        >>> short_site("up_blocks.1.attentions.0.transformer_blocks.3.ff.net.2")
        'up 1.0.3'
    """
    found = re.match(
        r"(down|mid|up)_blocks?(?:\.(\d+))?\.attentions\.(\d+)(?:\.transformer_blocks\.(\d+))?(?:\.|$)", name
    )
    if found is None:
        return name if len(name) <= 16 else f"{name[:15]}…"
    stage, block, attention, inner = found.groups()
    depth = [] if inner in (None, "0") else [inner]
    numbers = [block, attention, *depth] if block is not None else [n for n in [attention, *depth] if n != "0" or depth]
    return " ".join([stage, ".".join(numbers)]).strip()


def step_heatmap_figure(sites: Sequence[str], stages: Sequence[str], shares: Values) -> str:
    """Share of weights that each layer's mask chooses at each denoising step.

    Args:
        sites: Names of layers, in order of computation.
        stages: ``down``, ``mid`` or ``up`` of each; rows are grouped by it.
        shares: A row per layer with a value in [0, 1] per step; `None` and NaN stay empty.

    Returns:
        One ``<svg>`` element; empty text without layers or steps.

    Raises:
        ValueError: If there are not as many stages and rows as layers.
    """
    if not len(sites) == len(stages) == len(shares):
        raise ValueError(
            f"expected a stage and a row per layer, got {len(stages)} stages and {len(shares)} rows for {len(sites)}"
        )
    if not sites or not len(shares[0]):
        return ""
    values = _array(shares)
    norm = Normalize(0, float(np.nanmax(values, initial=0)) or 1)
    with drawing("step-heatmap"):
        figure = Figure(figsize=(WIDTH, 1.7 + 0.24 * len(sites)), layout="constrained")
        axes = figure.subplots()
        top, ticks = 0.0, dict[float, str]()
        for rows in _groups(stages):
            _draw_cells(axes, values[rows], norm, top)
            ticks |= {top + place + 0.5: short_site(sites[row]) for place, row in enumerate(rows)}
            top += len(rows) + _GAP
        axes.set_yticks([*ticks], [*ticks.values()], fontsize=9)
        axes.set(ylim=(top - _GAP, 0), xlim=(0, values.shape[1]), xlabel="denoising step (0 starts from pure noise)")
        _number_steps(axes, values.shape[1])
        _bare(axes)
        bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, orientation="horizontal", aspect=30, pad=0.03)
        bar.set_label("share of weights")
        bar.outline.set_visible(False)
        bar.ax.xaxis.set(major_locator=MaxNLocator(4), major_formatter=_percents())
        return as_svg(figure, "step-heatmap", f"Share of weights chosen in {len(sites)} layers at each denoising step.")


def iou_matrix_figure(labels: Sequence[str], matrix: Values, memorized: Sequence[bool]) -> str:
    """IoU of the masks of every two sets of prompts.

    Args:
        labels: Short names of the sets.
        matrix: IoUs in [0, 1], a row per set; `None` and NaN, where two masks are empty, stay empty, and so does the
            diagonal.
        memorized: Whether each set is of memorized prompts; those come first, set apart by a gap.

    Returns:
        One ``<svg>`` element; empty text without sets.

    Raises:
        ValueError: If labels, rows and flags are not equally many.
    """
    if not len(labels) == len(matrix) == len(memorized):
        raise ValueError(
            f"expected a row and a flag per label, got {len(matrix)} rows, {len(memorized)} flags, {len(labels)} labels"
        )
    if not labels:
        return ""
    groups = [
        g for g in ([i for i, m in enumerate(memorized) if m], [i for i, m in enumerate(memorized) if not m]) if g
    ]
    values = _array(matrix)
    np.fill_diagonal(values, np.nan)
    norm = Normalize(0, 1)
    with drawing("iou-matrix"):
        figure = Figure(figsize=(WIDTH, 1.25 * WIDTH), layout="constrained")
        axes = figure.subplots()
        places = _draw_blocks(axes, values, groups, norm)
        end = max(places.values()) + 0.5
        names = [labels[i] for i in places]
        axes.set_yticks([*places.values()], names, fontsize=9)
        axes.set_xticks([*places.values()], names, fontsize=9, rotation=90)
        axes.set(xlim=(0, end), ylim=(end, 0), aspect="equal")
        axes.set_title("IoU over all layers" + ("; empty: both masks are empty" if _has_empty(values) else ""))
        _bare(axes)
        bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, orientation="horizontal", aspect=30, pad=0.03)
        bar.set_label("IoU")
        bar.outline.set_visible(False)
        return as_svg(figure, "iou-matrix", f"Overlap of masks of {len(labels)} sets of prompts.")


def layer_overlap_figure(rows: Sequence[Row]) -> str:
    """Per layer, overlap of memorized sets with each other, with controls and by chance.

    Args:
        rows: ``{site, stage, within_memorized, with_controls, within_controls, random, empty_share, p_adjusted}``;
            further keys are ignored, missing values are left out, and a row without any is said to be not measured.
            Rows over several layers have an empty stage and are set apart by a line.

    Returns:
        One ``<svg>`` element; a star marks layers with an adjusted p-value below 0.05; empty text without rows.
    """
    if not rows:
        return ""
    known = [v for row in rows for key, *_ in _KINDS if (v := finite(row.get(key))) is not None]
    end = max([*known, 0.05]) * 1.12
    with drawing("layer-overlap"):
        figure = Figure(figsize=(WIDTH, 1.9 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for i, row in enumerate(rows):
            _draw_layer(axes, i, row, end)
        axes.set_yticks(range(len(rows)), [short_site(str(row.get("site"))) for row in rows], fontsize=9)
        axes.set(xlim=(-0.02 * end, end), ylim=(len(rows) - 0.5, -0.5))
        axes.set_xlabel("mean IoU of pairs of sets; \u2217 adjusted p < 0.05")
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.8)
        for _, label, marker, colour in _KINDS:
            axes.plot(
                [], [], marker, color=colour, label=label, markersize=7, markeredgewidth=2 if marker == "|" else 1
            )
        figure.legend(loc="outside upper center", ncols=2, fontsize=9, handletextpad=0.2, columnspacing=1.2)
        return as_svg(figure, "layer-overlap", f"Overlap of masks in {len(rows)} layers by kind of pair.")


def growth_figure(rows: Sequence[Row]) -> str:
    """How the mask changes with the number of prompts, or with the rung of the ladder.

    Args:
        rows: ``{n_prompts, share, iou_with_full}``, or ``{rung, n_prompts, share, iou_with_top}``; missing values
            are said to be not measured.

    Returns:
        One ``<svg>`` element; empty text without rows.
    """
    if not rows:
        return ""
    by_rung = "rung" in rows[0]
    key, iou = ("rung", "iou_with_top") if by_rung else ("n_prompts", "iou_with_full")
    ratio = "IoU with the mask of the top rung" if by_rung else "IoU with the mask of all prompts"
    name = "mask-by-rung" if by_rung else "mask-growth"
    with drawing(name):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_curve(above, [row.get("share") for row in rows], BLUE, joined=not by_rung)
        above.set_title("share of weights chosen")
        above.set_ylim(0, 1.12 * max([finite(row.get("share")) or 0.0 for row in rows] + [1e-6]))
        above.yaxis.set(major_locator=MaxNLocator(4), major_formatter=_percents())
        _draw_curve(below, [row.get(iou) for row in rows], TEAL, joined=not by_rung)
        below.set(title=ratio, ylim=(-0.04, 1.06))
        below.set_xticks(range(len(rows)), [f"{row.get(key)}" for row in rows])
        below.set_xlim(-0.6, len(rows) - 0.4)
        each = {row.get("n_prompts") for row in rows}
        of_rung = f"rung (higher was seen more often){f', {each.pop()} prompts each' if len(each) == 1 else ''}"
        below.set_xlabel(of_rung if by_rung else "prompts that the mask was located with")
        return as_svg(figure, name, f"Size of the mask and its overlap, for {len(rows)} values of {key}.")


def _array(values: Values) -> Float[np.ndarray, "A B"]:
    return np.array([[math.nan if v is None else float(v) for v in row] for row in values])


def _groups(stages: Sequence[str]) -> list[list[int]]:
    """Rows of each stage that there is: down, mid, up, then any other."""
    order = [*_STAGES, *sorted(set(stages) - set(_STAGES))]
    return [rows for name in order if (rows := [i for i, stage in enumerate(stages) if stage == name])]


def _draw_cells(
    axes: Axes, values: Float[np.ndarray, "A B"], norm: Normalize, top: float, left: float = 0.0
) -> QuadMesh:
    across, down = left + np.arange(values.shape[1] + 1), top + np.arange(values.shape[0] + 1)
    masked = np.ma.masked_invalid(values)
    return axes.pcolormesh(across, down, masked, cmap=_COLOURS, norm=norm, edgecolors="face", linewidth=0.2)


def _draw_blocks(
    axes: Axes, values: Float[np.ndarray, "M M"], groups: Sequence[Sequence[int]], norm: Normalize
) -> dict[int, float]:
    """Draw the blocks of groups against groups; where the middle of each set came to lie."""
    starts = [sum(len(g) + _GAP for g in groups[:k]) for k in range(len(groups))]
    places = {i: start + n + 0.5 for start, group in zip(starts, groups, strict=True) for n, i in enumerate(group)}
    for top, rows in zip(starts, groups, strict=True):
        for left, columns in zip(starts, groups, strict=True):
            _draw_cells(axes, values[np.ix_(rows, columns)], norm, top, left)
    if len(values) <= _MOST_NUMBERS:
        for i, j in zip(*np.nonzero(~np.isnan(values)), strict=True):
            colour = _DARK if norm(values[i, j]) > 0.55 else _BRIGHT
            text = f"{values[i, j]:.2f}".removeprefix("0")
            axes.text(places[j], places[i], text, ha="center", va="center", color=colour, fontsize=9)
    return places


def _draw_layer(axes: Axes, i: int, row: Row, end: float) -> None:
    values = {key: finite(row.get(key)) for key, *_ in _KINDS}
    ours, theirs = values["within_memorized"], values["with_controls"]
    if ours is not None and theirs is not None:
        axes.plot([theirs, ours], [i, i], color=BLUE, linewidth=4, alpha=0.25, solid_capstyle="butt")
    for key, _, marker, colour in reversed(_KINDS):
        if (value := values[key]) is not None:
            size = 11 if marker == "|" else 6
            axes.plot([value], [i], marker, color=colour, markersize=size, markeredgewidth=2 if marker == "|" else 1)
    if all(value is None for value in values.values()):
        empty = row.get("empty_share") == 1
        axes.text(0, i, "no IoU: all masks are empty" if empty else NOT_MEASURED, va="center", fontsize=9)
    if i and row.get("stage") == "":
        axes.axhline(i - 0.5, color=GREY, alpha=0.5, linewidth=0.8)
    p = finite(row.get("p_adjusted"))
    if p is not None and p < _LEVEL:
        axes.text(end, i, "\u2217", ha="center", va="center", color=ORANGE, fontsize=14)


def _draw_curve(axes: Axes, values: Sequence[float | None], colour: str, *, joined: bool) -> None:
    known = [(i, v) for i, value in enumerate(values) if (v := finite(value)) is not None]
    for i in set(range(len(values))) - {i for i, _ in known}:
        axes.text(i, 0.05, NOT_MEASURED, ha="center", va="bottom", rotation=90, fontsize=9,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.plot([i for i, _ in known], [v for _, v in known], "o-" if joined else "o", color=colour, markersize=7)
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.8)


def _number_steps(axes: Axes, n: int) -> None:
    every = next(k for k in (1, 2, 5, 10, 20, 50, 100, n) if n <= 12 * k)
    axes.set_xticks([step + 0.5 for step in range(0, n, every)], [str(step) for step in range(0, n, every)])


def _has_empty(values: Float[np.ndarray, "M M"]) -> bool:
    return bool(np.isnan(values[~np.eye(len(values), dtype=bool)]).any())


def _percents() -> FuncFormatter:
    return FuncFormatter(lambda share, _: percent(share))


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
