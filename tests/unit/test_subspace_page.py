"""The page on shared subspaces: says what the numbers carry, keeps hostile names as text, and misses parts openly."""

import math
import re

import pytest
import torch
from pages import HOSTILE, Reader

from amnestic.core.records import plain
from amnestic.measures.intervals import rate
from amnestic.report.subspace_answer import answer
from amnestic.report.subspace_page import render_subspace

SITES = [
    ("down", "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.2"),
    ("mid", "mid_block.attentions.0.transformer_blocks.0.ff.net.2"),
    ("up", "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2"),
]
YES = "Yes, memorized sets overlap more with each other than with control sets"
MADE_BY = {"name": "wanda-subspace", "parameters": {"r": 0.01, "what": "ffn"}}


def row(site, stage, p_adjusted=0.012, **changes):
    content = {
        "site": site, "stage": stage, "n_units": 1000, "share_memorized": 0.02, "share_controls": 0.016,
        "within_memorized": 0.412, "with_controls": 0.118, "within_controls": 0.127, "random": 0.0101,
        "random_with_controls": 0.0091, "empty_share": 0.25, "empty_share_with_controls": 0.1, "statistic": 0.294,
        "p_value": 0.004, "p_adjusted": p_adjusted, "n_permutations": 252, "exact": True,
    }  # fmt: skip
    return content | changes


def layers(**of_whole):
    mean = dict.fromkeys(row("", "")) | {"site": "mean over layers", "stage": "", "within_memorized": 0.333}
    found = [row(site, stage, p) for (stage, site), p in zip(SITES, (0.012, 0.6, None), strict=True)]
    return [*found, row("all layers", "", None, n_units=3000, **of_whole), mean]


def content(**changes):
    n = 4
    counts = [[9, 10], [0, 6], [7, 1]]  # no mask, then mask of set 1 and of set 2, on the works of each
    found = {
        "layers": layers(),
        "matrix": [[None if i == j else 0.4 for j in range(n)] for i in range(n)],
        "convention": "Two empty masks have no IoU.",
        "notes": ["Only 2 memorized sets; at least 5 are asked for."],
        "whole_test": {"statistic": 0.294, "p_value": 0.004, "n_permutations": 252, "exact": True},
        "share_memorized": [0.02, 0.02],
        "share_controls": [0.016, 0.016],
        "sets": [["work-a", "work-b"], ["work-c", "work-d"]],
        "transfer": {"rates": [[plain(rate(k, 10)) for k in line] for line in counts], "seeds": 2, "threshold": 0.62},
        "growth": [{"n_prompts": k, "share": 0.01 * k, "iou_with_full": k / 4} for k in (1, 2, 4)],
        "rungs": [{"rung": k, "n_prompts": 3, "share": 0.01, "iou_with_top": 0.2 * k} for k in (1, 2)],
        "steps": {"sites": [site for _, site in SITES], "stages": [stage for stage, _ in SITES]},
        "seconds": 12.5,
    }
    return found | changes


def tensors():
    return {"step_shares": torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) / 100}


def page(**changes):
    return render_subspace(content(**changes), tensors(), MADE_BY)


def words(html):
    """What a reader sees outside of drawings, with plain blanks."""
    return Reader(re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)).words.replace("\u00a0", " ")


def cells(html, caption):
    """Texts of the rows of one table, cell by cell."""
    table = next(t for t in re.findall(r"<table.*?</table>", html, re.DOTALL) if caption in t)
    return [
        [Reader(cell).words.replace("\u00a0", " ") for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", line, re.DOTALL)]
        for line in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    ]


def hostile():
    steps = {"sites": [HOSTILE] * 3, "stages": [HOSTILE] * 3}
    return render_subspace(
        content(
            layers=[row(HOSTILE, HOSTILE), *layers()], convention=HOSTILE, notes=[HOSTILE], steps=steps,
            sets=[[HOSTILE, "\u202eevil"], [HOSTILE, ""]], transfer={"rates": None, "why": HOSTILE},
        ),
        tensors(),
        {"name": HOSTILE, "parameters": {HOSTILE: HOSTILE}},
    )  # fmt: skip


PAGES = {"full": page, "hostile": hostile, "empty": lambda: render_subspace({}, {}, {})}


def test_sections_come_in_the_order_of_reading():
    order = [attrs["id"] for attrs in Reader(page()).all("section")]
    assert order == ["method", "answer", "figures", "layers", "transfer", "reading", "sets"]
    assert "<h1>Where memorization lives: is the subspace shared?</h1>" in page()


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_balanced_accessible_and_fetch_nothing(name):
    html = PAGES[name]()
    reader = Reader(html)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == tags.count("footer") == 1
    assert tags.count("table") == tags.count("caption")
    assert all(th.get("scope") in {"row", "col", "rowgroup"} for th in reader.all("th"))
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in reader.all("a")} <= set(ids)
    assert set(tags).isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "img"})
    assert not [key for _, attrs in reader.tags for key in attrs if key.startswith("on")]
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('http-equiv="', "")
    assert not re.search(r"@import|url\((?!#)", html)
    assert any(m.get("http-equiv") == "Content-Security-Policy" for m in reader.all("meta"))


def test_hostile_names_stay_text():
    html = hostile()
    assert "<script" not in html.lower()
    assert words(html).count(HOSTILE) >= 9  # method, parameter and value, convention, note, why, two works, layer
    assert "[U+202E]evil" in html
    assert "without a name" in html


def test_the_answer_is_yes_only_with_a_test_behind_it():
    text = words(page())
    assert "Yes, memorized sets overlap more with each other than with control sets, and more than by chance." in text
    assert "0.412 for two memorized sets, 0.118 for a memorized and a control set, 0.127 for two control sets" in text
    assert "0.0101 for masks that choose as many units of every layer by chance" in text
    assert "difference +0.294, p = 0.004." in text
    assert "Holm-adjusted p is below 0.05 in 1 of 2 layers; in 1 more it was not measured." in text


@pytest.mark.parametrize(
    ("of_whole", "test", "headline"),
    [
        ({}, {"p_value": 0.05}, "Undecided: the test does not show"),
        ({"within_memorized": 0.1}, {"p_value": 0.04}, "Undecided: the test does not show"),
        ({}, {"p_value": None}, "Not measured: whether"),
        ({}, {"p_value": math.nan}, "Not measured: whether"),
        ({"with_controls": None}, {"p_value": 0.01}, "Not measured: whether"),
        ({"random": 0.5}, {"p_value": 0.01}, YES + ", but not more than by chance."),
        ({"random": None}, {"p_value": 0.01}, YES + "; what chance gives was not measured."),
    ],
)  # fmt: skip
def test_other_answers(of_whole, test, headline):
    found = answer(content(layers=layers(**of_whole), whole_test=test))
    assert found.headline.startswith(headline)


def test_an_undecided_test_is_no_proof_and_too_few_sets_are_said():
    def said(**test):
        return " ".join(answer(content(whole_test={"statistic": 0.1, **test})).sentences)

    assert "does not mean that there is none" in said(p_value=0.3, n_permutations=252, exact=True)
    assert "p cannot be below 0.17, so nothing could be shown" in said(p_value=0.5, n_permutations=6, exact=True)
    assert "cannot be below" not in said(p_value=0.3, n_permutations=20, exact=False)
    assert "cannot be below 0.05" in said(p_value=0.3, n_permutations=19, exact=False)


def test_unequal_sizes_limit_the_overlap_that_there_can_be():
    assert "could have no IoU above 0.800, however alike" in " ".join(answer(content()).sentences)
    alike = answer(content(layers=layers(share_controls=0.02)))
    assert "however alike" not in " ".join(alike.sentences)


def test_layers_are_listed_with_all_their_numbers():
    table = cells(page(), "Overlap of masks in each layer")
    assert [line[0] for line in table[1:] if len(line) == 1] == ["down", "mid", "up", "over layers"]
    down = next(line for line in table if line[0].startswith("down 0.1"))
    assert "".join(down[0].split()[2:]) == SITES[0][1]
    assert down[1:] == [
        "2 % 1.6 %", "0.412", "0.118", "0.127", "0.0101 0.00910", "25 %", "0.004", "0.012"
    ]  # fmt: skip
    up = next(line for line in table if line[0].startswith("up 1.2"))
    assert up[-1] == "not measured"
    whole, mean = table[-2:]
    assert (whole[0], whole[7:]) == ("all layers", ["0.004", "-"])
    assert (mean[0], mean[1], mean[2], mean[3], mean[6:]) == (
        "mean over layers", "-", "0.333", "not measured", ["-", "-", "-"]
    )  # fmt: skip
    assert Reader(page()).all("td").count({"class": "found"}) == 1


def test_the_transfer_matrix_marks_the_diagonal_and_tells_intervals():
    html = page()
    table = cells(html, "Share of works replicated")
    assert [line[0] for line in table] == ["Zeroed", "no mask", "mask of set 1", "mask of set 2"]
    assert table[1][1:] == ["90 % 9 of 10", "100 % 10 of 10"]
    assert table[2][1:] == ["0 % 0 of 10", "60 % 6 of 10"]
    shown = [td for td in Reader(html).all("td") if "title" in td]
    assert [td.get("class") == "own" for td in shown] == [False, False, True, False, False, True]
    assert [td["style"] for td in shown[:3]] == ["--rate: 0.900", "--rate: 1.000", "--rate: 0.000"]
    expected = plain(rate(6, 10))
    ends = f"{100 * expected['lower']:.1f} % to {100 * expected['upper']:.1f} %"
    assert shown[3]["title"].replace("\u00a0", " ") == (
        f"Works of set 2, mask of set 1: 60 % (6 of 10 works), 95 % interval {ends}"
    )
    assert "one-sided upper bound 25.9 %" in shown[2]["title"].replace("\u00a0", " ")
    assert (
        "Mean over sets: 95 % without a mask, 5 % when the units of the same set are zeroed, 65 % when those of "
        "another set are."
    ) in words(html)


def test_a_rate_that_was_not_measured_has_no_colour_and_no_count():
    unknown = plain(rate(0, 0))
    html = page(transfer={"rates": [[unknown] * 2, [plain(rate(1, 4)), unknown], [unknown] * 2]})
    assert cells(html, "Share of works replicated")[1][1:] == ["not measured"] * 2
    shown = [td for td in Reader(html).all("td") if "title" in td]
    assert ["style" in td for td in shown] == [False, False, True, False, False, False]
    assert "Mean over sets: not measured without a mask, 25 % when" in words(html)


def test_a_transfer_that_was_not_tried_says_why():
    html = page(transfer={"rates": None, "why": "the run was judged by another descriptor"})
    assert "not measured: the run was judged by another descriptor" in words(html)
    assert "Share of works replicated" not in html


def test_method_settings_notes_and_sets_are_shown():
    text = words(page())
    for expected in (
        "Method wanda-subspace r 0.01 what ffn Memorized sets 2, of 2 works each Control sets 2",
        "Units searched 3,000 in 3 layers",
        "Labellings of the test over all layers 252, all there are",
        "Images per work and mask in the transfer matrix 2",
        "Threshold above which an image is a copy 0.620",
        "Time, in seconds 12.5",
        "Two empty masks have no IoU.",
        "Only 2 memorized sets; at least 5 are asked for.",
        "Set 1 work-a , work-b",
        "Set 2 work-c , work-d",
    ):
        assert expected in text


def test_figures_have_captions_and_missing_ones_are_named():
    def drawn(html):
        return [name for name in ("step-heatmap", "iou-matrix", "layer-overlap", "mask-growth", "mask-by-rung")
                if f'id="{name}-title"' in html]  # fmt: skip

    full = page()
    assert len(drawn(full)) == full.count("<figcaption>") == 5
    assert "only wanda-subspace keeps" not in full
    part = render_subspace(content(rungs=[], steps=None), {}, MADE_BY)
    assert drawn(part) == ["iou-matrix", "layer-overlap", "mask-growth"]
    assert "With more repetitions not measured; it needs works on at least two rungs" in words(part)
    assert "only wanda-subspace keeps" in words(part)


def test_nothing_measured_is_never_zero():
    text = words(render_subspace({}, {}, {}))
    assert "Not measured: whether memorized sets overlap more" in text
    assert not re.search(r"\b0(\.0+)? %|\b0\.000\b", text)
    assert text.count("not measured") >= 12


def test_values_that_are_not_finite_are_not_measured():
    html = page(layers=layers(within_memorized=math.nan, share_memorized=math.nan, empty_share=None))
    whole = cells(html, "Overlap of masks in each layer")[-2]
    assert (whole[1], whole[2], whole[6]) == ("not measured 1.6 %", "not measured", "not measured")
    assert "nan" not in Reader(re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)).words.lower().split()


def said_of(kinds, *, p=0.004, **of_whole):
    data = content(layers=layers(**of_whole), control_kinds=kinds)
    return " ".join(answer(data | {"whole_test": data["whole_test"] | {"p_value": p}}).sentences)


HELDOUT, BASE, BOTH = {"heldout": 60}, {"base": 60}, {"base": 40, "heldout": 20}
SAME_KIND = "meant to differ from memorized ones in nothing but memorization."
OF_MEMORIZATION = "the difference is one of memorization, not of the kind of prompt"
NOT_SHOWN = "nothing here shows that what sets share is memorization"
MAY_BE_KIND = "the difference may be one of the kind of prompt"
AS_MUCH = "overlap with each other no less than memorized ones"


class TestWhatTheControlsAre:
    def test_held_out_works_decide_for_memorization(self):
        text = said_of(HELDOUT)
        assert SAME_KIND in text
        assert OF_MEMORIZATION in text
        assert not any(words in text for words in (NOT_SHOWN, MAY_BE_KIND, AS_MUCH))

    @pytest.mark.parametrize("how", [{"p": 0.05}, {"p": None}, {"with_controls": 0.412}, {"with_controls": None}])
    def test_or_show_nothing(self, how):
        text = said_of(HELDOUT, **how)
        assert SAME_KIND in text
        assert NOT_SHOWN in text
        assert OF_MEMORIZATION not in text

    def test_held_out_works_that_share_as_much_are_told(self):
        text = said_of(HELDOUT, within_controls=0.5)
        assert OF_MEMORIZATION in text
        assert AS_MUCH in text
        assert "tell two kinds of prompts apart" not in text

    @pytest.mark.parametrize(
        ("kinds", "words"), [(BASE, "ordinary prompts."), (BOTH, "ordinary prompts and prompts of held-out works.")]
    )
    def test_ordinary_prompts_leave_the_kind_of_prompt_open(self, kinds, words):
        assert f"Controls are {words}" in said_of(kinds)
        assert MAY_BE_KIND in said_of(kinds)
        assert OF_MEMORIZATION not in said_of(kinds)
        assert MAY_BE_KIND not in said_of(kinds, p=0.05)
        both = said_of(kinds, within_controls=0.5)
        assert "tell two kinds of prompts apart" in both
        assert MAY_BE_KIND not in both

    def test_without_a_record_of_it_nothing_is_said(self):
        text = said_of(None)
        assert "Controls are" not in text
        assert MAY_BE_KIND not in text

    def test_the_page_says_what_control_sets_are_made_of(self):
        assert "Control sets 2, of prompts of held-out works" in words(page(control_kinds=HELDOUT))
        assert "Control sets 2 Units" in words(page())


@pytest.mark.parametrize(("within_controls", "said"), [(0.411, False), (0.412, True), (0.9, True), (None, False)])
def test_controls_that_share_as_much_are_told(within_controls, said):
    data = content()
    whole = next(row for row in data["layers"] if row["site"] == "all layers")
    data["layers"] = [row | {"within_controls": within_controls} if row is whole else row for row in data["layers"]]
    assert ("no less than memorized ones" in " ".join(answer(data).sentences)) is said
