"""The page of an attack: says what the numbers carry, keeps hostile text as text, and misses parts openly."""

import base64
import io
import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from pages import HOSTILE, Reader
from PIL import Image

from amnestic.core.records import plain
from amnestic.measures.excess import areas, exceeds, excess_mean, excess_rate
from amnestic.measures.intervals import rate
from amnestic.measures.radius import radius_sweep
from amnestic.measures.recovery import first_steps, hidden_table, horizon, median_step, recovery_curve
from amnestic.report.attack_page import Attempt, render_attack, thumbnail
from amnestic.report.redaction import blurred

STEPS = (0, 10, 50)
MADE_BY = {"name": "dori", "parameters": {"steps": 50, "learning_rate": 0.1}}
WORKS = torch.tensor([[0.1, 0.8, 0.9]] * 6 + [[0.2, 0.3, 0.75]] * 3 + [[0.1, 0.2, 0.3]])
HELDOUT = torch.tensor([[0.1, 0.2, 0.4 + 0.01 * i] for i in range(10)])


def arm(best, names="work", back_before=0):
    first = first_steps(best, STEPS, 0.7)
    works = [
        {"work": f"{names}-{i}", "before": row[0], "after": max(row), "step": step}
        for i, (row, step) in enumerate(zip(best.tolist(), first, strict=True))
    ]
    return {
        "works": works, "tries": 2, "seeds": 4, "budget": 50, "before": rate(back_before, len(best)),
        "curve": recovery_curve(best, STEPS, 0.7, seed=0), "passes": [0.0, 320.0, 1600.0], "by_median": rate(5, 10),
        "mean_before": {"estimate": 0.1, "lower": 0.05, "upper": 0.2}, "median_step": median_step(first),
        "hidden": hidden_table(first, STEPS), "forward": 8000.0, "backward": 8000.0, "stopped_early": 0,
    }  # fmt: skip


def gap(step=50):
    place = STEPS.index(step)
    ours, theirs = (best[:, : place + 1].amax(1) for best in (WORKS, HELDOUT))
    return {
        "step": step, "control_step": step, "target": rate(int((ours > 0.7).sum()), 10), "control": rate(0, 10),
        "rate": excess_rate(ours > 0.7, theirs > 0.7, paired=False, seed=0),
        "score": excess_mean(ours, theirs, paired=False, seed=0),
    }  # fmt: skip


def comparison(**changes):
    hits = [(best > 0.7).double() for best in (WORKS, HELDOUT)]
    area = excess_mean(areas(hits[0], STEPS), areas(hits[1], STEPS), paired=False, seed=0)
    quiet = [rate(0, 10)] * 3
    found = {
        "control": "heldout", "works": 10, "at_budget": gap(), "at_horizon": None, "area_steps": area,
        "area_passes": area, "test": exceeds(WORKS.amax(1), HELDOUT.amax(1), paired=False, seed=0),
        "p_adjusted": 0.0123, "horizon": horizon(quiet, STEPS),
        "horizon_by_bound": horizon(quiet, STEPS, by="upper_one_sided"),
    }  # fmt: skip
    return found | changes


def verdict(**changes):
    found = {
        "conclusion": "recoverable", "sentence": "Recoverable: 9 of 10 works came back.", "why": ["Nothing before."],
        "threshold": 0.7, "level": 0.05, "judged_at": 50,
        "arms": {"heldout": arm(HELDOUT, "held"), "works": arm(WORKS)}, "comparisons": [comparison()],
        "agreement": {
            "works": 10, "rank_correlation": 0.5, "p_value": 0.9, "against": "heldout", "disagreements": [],
            "fall": {"estimate": 0.25}, "gain": {"estimate": 0.5, "lower": 0.4, "upper": 0.6},
            "below": {"estimate": -0.01, "lower": -0.02, "upper": 0.01},
        },
        "radius": {},
        "flags": [{"name": "a flag", "because": "a number", "meaning": "a meaning", "remedy": "a remedy"}],
        "not_measured": [["Control: twin", "no twin was given"]], "notes": ["Ten are few."],
    }  # fmt: skip
    return plain(found | changes)


def picture(grey=128, size=(40, 30)):
    return np.full((*size, 3), grey, dtype=np.uint8)


def attempts():
    return [
        Attempt(work="work-0", prompt="The Garden", original=picture(), before=picture(10), after=picture(200),
                score_before=0.1, score_after=0.9, text="gardn ##velt"),
        Attempt(work="work-9", prompt="A lake", original=None, before=picture(), after=None, score_before=0.1),
    ]  # fmt: skip


def page(seconds=12.5, shown=(), **changes):
    data = {"verdict": verdict(**changes), "seconds": seconds, "searches": "embedding", "settings": {"Model": "pruned"}}
    return render_attack(json.loads(json.dumps(data)), MADE_BY, shown or attempts(), unshown=3)


@cache
def full():
    return page()


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
    works = arm(WORKS)
    works["works"] = [row | {"work": HOSTILE} for row in works["works"]]
    flag = dict.fromkeys(("name", "because", "meaning", "remedy"), HOSTILE)
    data = {
        "verdict": verdict(
            sentence=HOSTILE, why=[HOSTILE], arms={"works": works, HOSTILE: arm(HELDOUT)}, flags=[flag],
            comparisons=[comparison(control=HOSTILE)], not_measured=[[HOSTILE, HOSTILE]], notes=[HOSTILE],
        ),
        "searches": HOSTILE, "settings": {HOSTILE: HOSTILE},
    }  # fmt: skip
    shown = [Attempt(work=HOSTILE, arm=HOSTILE, prompt=f"{HOSTILE} \u202eevil", text=HOSTILE, after=picture())]
    return render_attack(data, {"name": HOSTILE, "parameters": {HOSTILE: HOSTILE}}, shown)


PAGES = {"full": full, "hostile": hostile, "empty": lambda: render_attack({}, {})}


def test_sections_come_in_the_order_of_reading():
    order = [attrs["id"] for attrs in Reader(full()).all("section")]
    assert order == ["verdict", "flags", "arms", "figures", "works", "gallery", "limits", "settings", "words"]


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
    assert set(tags).isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(re.match("data:image/(png|jpeg);base64,", img["src"]) and img["alt"] for img in reader.all("img"))
    assert not [key for _, attrs in reader.tags for key in attrs if key.startswith("on")]
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('http-equiv="', "")
    assert not re.search(r"@import|url\((?!#)", html)
    assert any(m.get("http-equiv") == "Content-Security-Policy" for m in reader.all("meta"))


def test_hostile_texts_stay_text():
    html = hostile()
    assert "<script" not in html.lower()
    assert "[U+202E]evil" in html
    text = words(html)
    # headline, why, 4 of the flag, arm, control, 10 works, card: work, arm, prompt, found; what and why; note;
    # attack, what it varies, a parameter and a setting with their values, the arm's passes
    assert text.count(HOSTILE) == 2 + 4 + 2 + 10 + 4 + 2 + 1 + 7
    assert all(HOSTILE not in svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL))


def test_verdict_and_header():
    text = words(full())
    assert "Works back, by step 50 9 of 10 90 %, 59.6 % to 98.2 %" in text
    assert "Never trained on, by step 50 0 of 10 upper bound 25.9 %" in text
    assert "Unedited model not measured whether the attack works is not known" in text
    assert "Recoverable: 9 of 10 works came back. Nothing before." in text
    assert "It is not a finding of infringement" in text


def test_the_header_shows_the_step_at_which_works_are_judged():
    text = words(page(judged_at=10, comparisons=[comparison(at_horizon=gap(10))]))
    assert "Works back, by step 10 6 of 10" in text
    assert words(page(judged_at=None)).count("Works back, by step 50 9 of 10") == 1


def test_arms_are_listed_works_first():
    table = cells(full(), "What came back in each arm")
    assert [line[0] for line in table[1:]] == ["works", "works never trained on"]
    assert table[1][1:6] == ["2 by 4", "0 of 10", "9 of 10 90 %, 59.6 % to 98.2 %", "9 of 10", "5 of 10"]
    assert table[1][6].startswith(f"{(6 * 0.9 + 3 * 0.75 + 0.3) / 10:.3f}")
    assert (table[1][7], table[2][7]) == ("10", "fewer than half")


def test_controls_are_compared_with_intervals():
    table = cells(full(), "Excess over each control")
    expected = excess_rate(WORKS.amax(1) > 0.7, HELDOUT.amax(1) > 0.7, paired=False, seed=0)
    assert table[1][0] == "works never trained on other works"
    assert table[1][1] == f"+90 +{100 * expected.lower:.1f} to +{100 * expected.upper:.1f}"
    assert table[1][3] == "the same"
    assert table[1][4] == f"+{(0.6 * 0.5 * 10 + (0.6 + 0.9) / 2 * 40) / 50:.3f}"
    assert table[1][6:] == ["0.0123", "all 50 steps by upper bound: never"]
    at = cells(page(comparisons=[comparison(at_horizon=gap(10))]), "Excess over each control")
    assert at[1][3].startswith("+60 ")


def test_negative_excess_has_a_true_minus():
    worse = gap() | {"rate": excess_rate(HELDOUT[:, 2] > 0.7, WORKS[:, 2] > 0.7, paired=False, seed=0)}
    assert cells(page(comparisons=[comparison(at_budget=worse)]), "Excess")[1][1].startswith("\u221290 \u2212")


def test_works_are_listed_by_when_they_came_back():
    table = cells(full(), "Steps to recovery")
    assert [line[0] for line in table[1:]] == [f"work-{i}" for i in range(10)]
    assert [line[3] for line in table[1:]] == ["10"] * 6 + ["50"] * 3 + ["not back"]
    assert table[1][1:3] == ["0.100", "0.900"]
    hidden = cells(full(), "Works not brought back yet")
    assert [line[:4] for line in hidden[1:]] == [
        ["0", "10", "0", "100 %"], ["10", "10", "6", "40 %"], ["50", "4", "3", "10 %"]
    ]  # fmt: skip


def test_a_sweep_adds_a_figure_and_a_column():
    sweep = radius_sweep({0.5: WORKS[:, :2], 2.0: WORKS[:, 1:]}, 0.7, seed=0)
    html = page(radius={"works": sweep})
    assert 'id="radius-title"' in html
    assert [line[4] for line in cells(html, "Steps to recovery")[1:]] == ["0.500"] * 6 + ["2.000"] * 3 + ["not back"]
    assert "Smallest radius" not in full()
    assert "no sweep over the radius was made" in words(full())


def test_figures_have_captions():
    html = full()
    drawn = re.findall(r'<svg[^>]*aria-labelledby="([\w-]+)-title"', html)
    assert drawn == ["budget-step", "budget-passes", "first-steps"]
    assert html.count("<figcaption><strong>") == 3
    steps = next(svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "budget-step" in svg)
    assert "works never trained on" in steps
    assert "controls quiet up to" not in steps
    assert "controls quiet up to step 10" in page(judged_at=10)


def test_without_passes_there_is_no_figure_over_them():
    html = page(arms={"works": arm(WORKS) | {"passes": [0.0, 0.0, 0.0]}})
    assert "budget-passes" not in html
    assert "passes were not counted" in words(html)


def test_flags_limits_and_settings_are_shown():
    text = words(full())
    for expected in (
        "a flag a number a meaning a remedy",
        "Control: twin no twin was given",
        "Ten are few.",
        "Attack dori What it varies embedding steps 50 learning_rate 0.1 Tries per work 2",
        "Kept steps 0, 10, 50 Threshold above which an image is a copy 0.700",
        "Passes, works 8,000 forward, 8,000 backward",
        "Time, in seconds 12.5 Model pruned",
        "Mean relative change of the loss \u221225 %",
        "Final loss, minus that of: works never trained on \u22120.0100 (\u22120.0200 to +0.0100)",
    ):
        assert expected in text
    assert "No flag was raised." in words(page(flags=[]))


def test_pictures_have_their_scores():
    html = full()
    shown = Reader(html).all("img")
    assert [img["alt"] for img in shown] == [
        f"{name}, blurred"
        for name in ("original, work work-0", "before, work work-0", "after, work work-0", "before, work work-9")
    ]
    text = words(html)
    assert "original before 0.100 after 0.900 Prompt that was found: gardn ##velt" in text
    assert "no picture original before 0.100 no picture after not measured" in text
    assert html.count('<figure class="over">') == 1
    assert "3 more works are not shown." in text
    assert "No picture was kept." in words(render_attack({}, {}))


def test_thumbnails_shrink_and_never_grow():
    def size(image):
        with Image.open(io.BytesIO(thumbnail(image))) as opened:
            return opened.size

    assert size(picture(size=(512, 256))) == (96, 192)
    assert size(picture(size=(64, 48))) == (48, 64)
    exact = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(thumbnail(exact))) as opened:
        assert np.array_equal(np.asarray(opened), exact)
    shown = [Attempt(work="w", original=exact, after=exact)]
    assert base64.b64encode(thumbnail(exact)).decode() in render_attack({}, {}, shown, blurred=False)


def test_by_default_a_page_copies_no_work():
    exact = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    html = render_attack({}, {}, [Attempt(work="w", original=exact, before=exact, after=exact)])
    assert base64.b64encode(thumbnail(exact)).decode() not in html
    assert html.count(base64.b64encode(blurred(exact)).decode()) == 3
    assert "Pictures are blurred" in words(html)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="8 bits"):
        thumbnail(wrong)


def test_nothing_measured_is_never_zero():
    text = words(render_attack({}, {}))
    assert "Not measured: whether works can be brought back." in text
    assert not re.search(r"\b0(\.0+)? %|\b0\.000\b|\b0 of\b", text)
    assert text.count("not measured") >= 10


def test_values_that_are_not_finite_are_not_measured():
    arms = verdict()["arms"]
    arms["works"]["curve"][-1]["mean"] = {"estimate": float("nan"), "lower": None, "upper": None}
    arms["works"]["before"]["estimate"] = None
    html = render_attack({"verdict": verdict(arms=arms)}, MADE_BY)
    row = cells(html, "What came back in each arm")[1]
    assert (row[2], row[6]) == ("not measured", "not measured no interval")
