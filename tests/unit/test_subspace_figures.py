import io
import math
import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.textpath import TextPath
from pages import drawn_well

from amnestic.report.subspace_figures import (
    growth_figure,
    iou_matrix_figure,
    layer_overlap_figure,
    short_site,
    step_heatmap_figure,
)

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = r"(-?[\d.]+)"


def site(stage, *numbers):
    block = "mid_block" if stage == "mid" else f"{stage}_blocks.{numbers[0]}"
    return f"{block}.attentions.{numbers[-1]}.transformer_blocks.0.ff.net.2"


# The sixteen layers of Stable Diffusion 1, out of order on purpose.
SITES = [
    *(site("up", b, a) for b in (1, 2, 3) for a in (0, 1, 2)),
    *(site("down", b, a) for b in (0, 1, 2) for a in (0, 1)),
    site("mid", 0),
]
STAGES = [name.split("_", 1)[0] for name in SITES]


def ious(n, *, undefined=()):
    found = np.random.default_rng(0).random((n, n))
    found = (found + found.T) / 2
    for i, j in undefined:
        found[i, j] = found[j, i] = math.nan
    return [[None if math.isnan(v) else float(v) for v in row] for row in found]


def overlap(name, ours=0.4, theirs=0.1, *, p=0.5, **more):
    found = {"within_memorized": ours, "with_controls": theirs, "within_controls": 0.08, "random": 0.005}
    return {"site": name, "stage": name.split("_", 1)[0], "p_adjusted": p, "empty_share": 0.0} | found | more


EMPTY = dict.fromkeys(("within_memorized", "with_controls", "within_controls", "random"))
LAYERS = [
    *(overlap(name, p=0.01 if i < 3 else 0.9) for i, name in enumerate(SITES[:9])),
    overlap(SITES[9], **EMPTY, p=None, empty_share=1.0),
    overlap(SITES[10], **EMPTY, p=None, empty_share=None),
    {**overlap("all layers", p=None), "stage": ""},
]
GROWTH = [{"n_prompts": n, "share": 0.001 * n, "iou_with_full": n / 40} for n in (1, 2, 5, 10, 20, 40)]
RUNGS = [{"rung": r, "n_prompts": 12, "share": 0.004, "iou_with_top": 0.2 * r if r < 4 else None} for r in range(5)]
FIGURES = {
    "step-heatmap": lambda: step_heatmap_figure(SITES, STAGES, np.random.default_rng(0).random((16, 50)).tolist()),
    "iou-matrix": lambda: iou_matrix_figure(
        [*(f"memorized {i}" for i in range(10)), *(f"control {i}" for i in range(10))],
        ious(20),
        [True] * 10 + [False] * 10,
    ),
    "layer-overlap": lambda: layer_overlap_figure(LAYERS),
    "mask-growth": lambda: growth_figure(GROWTH),
    "mask-by-rung": lambda: growth_figure(RUNGS),
}


def texts(svg):
    return [e.text or "" for e in ElementTree.parse(io.StringIO(svg)).iter(f"{SVG}text")]


def boxes(svg):
    """Every text with its box ``(left, top, right, bottom)`` in points, from the metrics of the font it names."""
    for element in ElementTree.parse(io.StringIO(svg)).iter(f"{SVG}text"):
        style, moved = element.get("style"), element.get("transform")
        size = float(re.search(rf"font-size: {NUMBER}px", style)[1])
        ends = TextPath((0, 0), element.text, size=size).get_extents()
        if found := re.search(rf"translate\({NUMBER} {NUMBER}\) rotate\(-90\)", moved):
            x, y = map(float, found.groups())
            yield element.text, (x - ends.y1, y - ends.x1, x - ends.y0, y - ends.x0)
            continue
        x, y = float(element.get("x")), float(element.get("y"))
        assert re.match(r"rotate\(-0 ", moved)
        anchor = (re.search(r"text-anchor: (\w+)", style) or ["", "start"])[1]
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * ends.width
        yield element.text, (left, y - ends.y1, left + ends.width, y - ends.y0)


def page_of(svg):
    return [float(v) for v in ElementTree.parse(io.StringIO(svg)).getroot().get("viewBox").split()[2:]]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (site("down", 0, 1), "down 0.1"),
        (site("up", 3, 2), "up 3.2"),
        (site("mid", 0), "mid"),
        ("up_blocks.1.attentions.0.transformer_blocks.3.attn2.to_v", "up 1.0.3"),
        ("mid_block.attentions.0.transformer_blocks.9.ff.net.2", "mid 0.9"),
        ("down_blocks.10.attentions.2.transformer_blocks.0.ff.net.2", "down 10.2"),
        ("mean over layers", "mean over layers"),
        ("something.that.nobody.knows", "something.that.…"),
    ],
)
def test_short_names(name, short):
    assert short_site(name) == short


def test_short_names_of_a_model_are_different():
    deep = [f"{b}.attentions.{a}.transformer_blocks.{k}.ff.net.2"
            for b in ("down_blocks.1", "mid_block", "up_blocks.0") for a in (0, 1) for k in (0, 1, 2)]  # fmt: skip
    assert len({short_site(name) for name in [*deep, *SITES]}) == len({*deep, *SITES})


@pytest.mark.parametrize("name", FIGURES)
class TestEveryFigure:
    def test_is_the_same_every_time_and_well_formed(self, name):
        root = drawn_well(name, FIGURES[name])
        assert not list(root.iter(f"{SVG}image")), "a bitmap in it would need the namespace that is taken out"

    def test_no_label_lies_on_another_or_outside(self, name):
        svg = FIGURES[name]()
        width, height = page_of(svg)
        found = list(boxes(svg))
        assert len(found) > 5
        for (one, a), (other, b) in combinations(found, 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{one} and {other} overlap"
        for text, (left, top, right, bottom) in found:
            assert -0.5 <= left <= right <= width + 0.5, text
            assert -0.5 <= top <= bottom <= height + 0.5, text


class TestHeatmap:
    def test_layers_are_grouped_by_stage_from_top_to_bottom(self):
        shown = {text: box[1] for text, box in boxes(FIGURES["step-heatmap"]())}
        names = [short_site(name) for name in SITES]
        order = sorted(names, key=shown.__getitem__)
        assert order == [*names[9:15], "mid", *names[:9]]
        gap = shown["mid"] - shown["down 2.1"]
        assert gap > 1.2 * (shown["down 2.1"] - shown["down 2.0"])

    def test_a_cell_per_value_and_none_for_what_is_missing(self):
        def cells(shares):
            svg = step_heatmap_figure(SITES[:2], STAGES[:2], shares)
            drawn = svg.split('id="step-heatmap-QuadMesh_1"')[1].split("</g>")[0]
            return len(re.findall(r"fill: #[0-9a-f]{6}", drawn))

        assert cells([[0.1, 0.2, 0.3], [0.0, 0.1, 0.2]]) == 6
        assert cells([[0.1, None, 0.3], [math.nan, 0.1, 0.2]]) == 4

    def test_nothing_chosen_or_measured_can_be_drawn(self):
        assert "share of weights" in step_heatmap_figure(SITES[:1], STAGES[:1], [[0.0, 0.0]])
        assert "share of weights" in step_heatmap_figure(SITES[:1], STAGES[:1], [[None]])
        assert step_heatmap_figure([], [], []) == ""
        assert step_heatmap_figure(SITES[:1], STAGES[:1], [[]]) == ""

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="1 stages and 2 rows for 2"):
            step_heatmap_figure(SITES[:2], STAGES[:1], [[0.1], [0.2]])


class TestMatrix:
    def test_numbers_are_shown_for_few_sets_except_on_the_diagonal(self):
        labels, flags = ["a", "b", "c", "d"], [False, True, True, False]
        shown = texts(
            iou_matrix_figure(labels, [[0.99 if i == j else 0.25 for j in range(4)] for i in range(4)], flags)
        )
        assert shown.count(".25") == 12
        assert ".99" not in shown
        assert ".25" not in texts(iou_matrix_figure([f"{i}" for i in range(13)], [[0.25] * 13] * 13, [True] * 13))

    def test_memorized_sets_come_first(self):
        found = boxes(iou_matrix_figure(["a", "b", "c", "d"], ious(4), [False, True, True, False]))
        middles = sorted(((left + right) / 2, text) for text, (left, _, right, _) in found if text in "abcd")
        ends = {text: x for x, text in middles[4:]}  # what is further left are the names of the rows
        assert sorted(ends, key=ends.__getitem__) == ["b", "c", "a", "d"]
        assert ends["a"] - ends["c"] > 1.2 * (ends["c"] - ends["b"])

    def test_empty_pairs_are_told(self):
        labels, flags = ["a", "b", "c"], [True, True, False]
        assert "empty: both masks" in " ".join(texts(iou_matrix_figure(labels, ious(3, undefined=[(0, 1)]), flags)))
        assert "empty: both masks" not in " ".join(texts(iou_matrix_figure(labels, ious(3), flags)))

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="2 rows, 3 flags, 3 labels"):
            iou_matrix_figure(["a", "b", "c"], ious(2), [True] * 3)
        assert iou_matrix_figure([], [], []) == ""


class TestLayers:
    def test_a_star_for_every_layer_that_stays_significant(self):
        assert texts(FIGURES["layer-overlap"]()).count("\u2217") == 3
        assert texts(layer_overlap_figure([overlap("a", p=0.05)])).count("\u2217") == 0

    def test_what_has_no_overlap_is_told_apart_from_what_was_not_measured(self):
        shown = texts(FIGURES["layer-overlap"]())
        assert shown.count("no IoU: all masks are empty") == 1
        assert shown.count("not measured") == 1
        assert layer_overlap_figure([]) == ""

    def test_points_lie_where_the_values_are(self):
        svg = layer_overlap_figure([overlap("a", 0.4, 0.2, within_controls=None, random=None)])
        ticks = {text: (box[0] + box[2]) / 2 for text, box in boxes(svg) if re.fullmatch(r"0\.\d+", text)}
        scale = (ticks["0.4"] - ticks["0.0"]) / 0.4
        drawn = [float(x) for x in re.findall(r'<use href="#[^"]+" x="([\d.]+)"[^>]*fill: #(?:3d85c6|2b9a8b)', svg)]
        values = sorted((x - ticks["0.0"]) / scale for x in drawn)
        assert any(v == pytest.approx(0.2, abs=0.01) for v in values)
        assert any(v == pytest.approx(0.4, abs=0.01) for v in values)


class TestGrowth:
    def test_both_kinds_of_rows_are_named(self):
        assert "IoU with the mask of all prompts" in texts(FIGURES["mask-growth"]())
        assert [t for t in texts(FIGURES["mask-growth"]()) if t in {"1", "2", "5", "10", "20", "40"}]
        shown = texts(FIGURES["mask-by-rung"]())
        assert "IoU with the mask of the top rung" in shown
        assert "rung (higher was seen more often), 12 prompts each" in shown

    def test_what_is_missing_is_not_zero(self):
        assert texts(FIGURES["mask-by-rung"]()).count("not measured") == 1
        assert texts(FIGURES["mask-growth"]()).count("not measured") == 0
        assert texts(growth_figure([{"n_prompts": 1, "share": 0.0, "iou_with_full": None}])).count("not measured") == 1
        assert growth_figure([]) == ""
