"""The page on locality: says what the numbers carry, keeps hostile names as text, and misses parts openly."""

import math
import re

import pytest
import torch
from pages import HOSTILE, Reader

from amnestic.core.records import plain
from amnestic.core.seeds import generator
from amnestic.measures.dispersion import spread
from amnestic.measures.intervals import rate
from amnestic.report.locality_answer import answer
from amnestic.report.locality_page import render_locality

SITE = "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v"
KINDS = ("within_found", "across_found", "within_memorized", "found_with_memorized", "within_natural", "within_heldout")


def distances(*values):
    return plain(spread(torch.tensor(values)))


def start(group, work, k, **changes):
    geometry = {
        "starts": distances(10.0, 11.0), "found": distances(12.0, 13.0), "came": distances(12.0, 13.0),
        "moved": distances(2.0, 3.0), "to_natural": 4.2, "came_to_natural": 4.1, "to_starts": 1.19,
        "moved_to_starts": 0.238, "own_nearest": 0.97,
    }  # fmt: skip
    return {
        "group": group, "work": work, "came": plain(rate(k, 20)), "at_start": plain(rate(0, 20)), "score": 0.8,
        "geometry": geometry,
    } | changes  # fmt: skip


def agreement(**means):
    pair = {kind: {"mean": means.get(kind, 0.2), "mean_of_chosen": 0.2, "empty_share": 0.25, "n": 4} for kind in KINDS}
    layers = [{"site": SITE, "stage": "down", "n_units": 9, "kinds": pair},
              {"site": "all layers", "stage": "", "n_units": 9, "kinds": pair}]  # fmt: skip
    return {"layers": layers, "empty": 1.0, "units": {"found": [3, 1, 2], "heldout": []}, "passes": 9, "settings": {}}


def round_row(number, **changes):
    return {
        "round": number, "units": 100 * number, "share": 0.01 * number, "plain": plain(rate(0, 10)),
        "attacked": plain(rate(9, 10)), "heldout_attacked": plain(rate(1, 10)), "heldout_plain": plain(rate(0, 10)),
        "likeness": {"median": 0.75, "mad": 0.1, "n": 20}, "alignment": None,
    } | changes  # fmt: skip


def content(**changes):
    row = {"site": SITE, "stage": "down", "kind": "value", "found": 5.0, "memorized": 2.0, "heldout": 6.0,
           "starts": 7.0, "natural": 1.5}  # fmt: skip
    found = {
        "threshold": 0.62, "natural": distances(3.0, 3.2), "gaussian_distance": 10.4, "shape": [6, 9],
        "starts": [start("memorized", "work-a", 19), start("heldout", "held-b", 2)],
        "overall": {"memorized": plain(rate(19, 20)), "heldout": plain(rate(2, 20))},
        "activations": [row, row | {"kind": "ffn", "found": 1.0}], "agreement": {"nemo": agreement(within_found=0.9)},
        "rounds": {"rows": [round_row(0), round_row(1), round_row(2)], "ended": "all rounds were made",
                   "method": {"name": "nemo"}},
        "maps": [{"work": "work-a", "how": "principal", "tensor": "map.0.principal", "explained": [0.6, 0.1],
                  "n": [2, 2, 3], "came": [True, False]}],
        "notes": ["Only 1 work replicates."],
    }  # fmt: skip
    return found | changes


def tensors():
    return {"map.0.principal": torch.randn((7, 2), generator=generator(0, "map"))}


def page(**changes):
    return render_locality(content(**changes), tensors(), {"name": "locality", "parameters": {"starts": 20}})


def words(html):
    return Reader(re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)).words.replace("\u00a0", " ")


def hostile():
    data = content(
        starts=[start(HOSTILE, HOSTILE, 1)], notes=[HOSTILE], agreement={HOSTILE: agreement()},
        rounds={"rows": [round_row(0)], "ended": HOSTILE, "method": {"name": HOSTILE}},
        activations=[content()["activations"][0] | {"site": HOSTILE, "kind": HOSTILE}],
    )  # fmt: skip
    data["maps"][0]["work"] = HOSTILE
    return render_locality(data, tensors(), {"parameters": {HOSTILE: HOSTILE}})


PAGES = {"full": page, "hostile": hostile, "empty": lambda: render_locality({}, {}, {})}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_balanced_accessible_and_fetch_nothing(name):
    html = PAGES[name]()
    reader = Reader(html)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == 1
    assert tags.count("table") == tags.count("caption")
    assert all(th.get("scope") in {"row", "col"} for th in reader.all("th"))
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in reader.all("a")} <= set(ids)
    assert set(tags).isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "img"})
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('http-equiv="', "")


def test_hostile_names_stay_text():
    assert "<script" not in hostile()
    assert "alert(1)" in words(hostile())


def test_nothing_measured_is_never_zero():
    text = words(render_locality({}, {}, {}))
    assert "Not measured: whether random starts lead" in text
    assert not re.search(r"\b0(\.0+)? %|\b0\.000\b", text)
    assert text.count("not measured") >= 12


def test_figures_are_drawn_where_there_is_something_to_draw():
    html = page()
    for name in ("starts", "map-0", "distances", "activations", "agreement-0", "rounds"):
        assert f'id="{name}-title"' in html
    part = render_locality(content(maps=[], rounds=None), {}, {})
    assert 'id="rounds-title"' not in part
    assert "Pruning again and again not measured; ask for rounds" in words(part)


@pytest.mark.parametrize("missing", [("heldout_attacked",), ("likeness",), ("plain", "attacked", "heldout_attacked")])
def test_rounds_are_drawn_without_what_was_not_measured(missing):
    html = page(rounds={"rows": [round_row(i, **dict.fromkeys(missing)) for i in range(2)]})
    assert 'id="rounds-title"' in html
    assert words(html).count("not measured") > words(page()).count("not measured")


def test_nothing_that_came_back_is_said_and_still_drawn():
    lost = start("memorized", "work-a", 0)
    lost["geometry"] |= {"came": distances(), "came_to_natural": None}
    data = content(starts=[lost], activations=[content()["activations"][0] | {"found": None}])
    data["maps"][0]["came"] = [False, False]
    html = render_locality(data, tensors(), {})
    assert all(f'id="{name}-title"' in html for name in ("starts", "map-0", "distances", "activations"))
    assert "Distances of embeddings that bring one image: not measured. But random starts" in words(html)


def test_tables_hold_the_numbers_of_the_record():
    text = words(page())
    for expected in (
        "work-a memorized 95 % of 20", "1.190 97 %", "down 0.1 (value) 5.000 2.000 1.500 6.000 7.000",
        "Two empty masks count as IoU 1, as in the paper.", "0.900 25 % empty",
        "found, one image: median 2 units; found, one held-out image: median not measured units",
        "2 200 2 % 0 %", "0.750 ± 0.100 not measured", "It ended because all rounds were made.",
        "Only 1 work replicates.", "starts 20",
    ):  # fmt: skip
        assert expected in text, expected


@pytest.mark.parametrize(
    ("empty", "said"), [(0.0, "count as IoU 0, as in the code of ConceptPrune"), (None, "such pairs are left out")]
)
def test_the_convention_is_told(empty, said):
    assert said in words(page(agreement={"nemo": agreement() | {"empty": empty}}))


class TestAnswer:
    def said(self, ours=(), theirs=(), **changes):
        starts = [start("memorized", f"w{i}", k) for i, k in enumerate(ours)]
        starts += [start("heldout", f"h{i}", k) for i, k in enumerate(theirs)]
        return answer(content(starts=starts, **changes))

    def test_only_intervals_that_lie_apart_say_not_local(self):
        assert self.said([19, 10, 18], [2, 1]).headline.endswith("2 of 3, each more often than any of 2 held-out ones.")
        assert self.said([19], [2]).headline.startswith("Not local among embeddings")
        assert self.said([19], [2, 15]).headline.startswith("Undecided: random starts lead to no memorized image")
        assert self.said([2], [19]).headline.startswith("Undecided: random starts lead to no memorized image")
        assert self.said([19]).headline.startswith("Undecided: without held-out images")
        assert self.said([], [2]).headline.startswith("Not measured")

    def test_that_starts_were_far_apart_by_themselves_is_always_said(self):
        text = " ".join(self.said([19], [2]).sentences).replace("\u00a0", " ")
        assert "4.100 times as far apart as ordinary prompts. But random starts are far apart by themselves" in text
        assert "1.190 times as dispersed as the starts" in text
        assert "97 % of the results lie nearest" in text
        assert "1 of 2 layers speak more differently" in text
        assert "0.900 for embeddings of one image, 0.200 for those of different memorized images" in text
        assert "After 2 rounds of pruning (2 % of the weights) 0 % of the works come back by their prompts" in text
        assert "and 90 % under a fresh attack" in text

    def test_what_is_missing_or_not_finite_is_not_measured(self):
        data = content(activations=[], rounds=None, starts=[], agreement={"nemo": {}}, natural={"median": math.nan})
        text = " ".join(answer(data).sentences)
        assert text.count("not measured") == 8
        assert "nan" not in text.lower()
