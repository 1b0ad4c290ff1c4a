"""The report: hostile text stays text, nothing is fetched, and what was not measured never looks like zero."""

import io
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import (
    HOSTILE,
    LADDER,
    NONE_SEEN,
    SOME_SEEN,
    UNKNOWN,
    Reader,
    drawn_well,
    evidence,
    page,
    png,
    summary,
    words,
)
from PIL import Image

from amnestic.core.records import Rate, plain
from amnestic.report import wording
from amnestic.report.figures import histogram_figure, ladder_figure, leak_figure
from amnestic.report.html import picture, render
from amnestic.report.page import Page


def hostile_page():
    harm = {HOSTILE: HOSTILE}
    return page(
        title=HOSTILE,
        summary=summary(
            model={**harm, "name": HOSTILE},
            descriptor=harm,
            threshold={"value": 0.5, "provenance": HOSTILE},
            by_label={HOSTILE: SOME_SEEN},
            controls={HOSTILE: {"works": 3, "leak_rate": {**SOME_SEEN, "method": HOSTILE}}},
            verdict=HOSTILE,
            timings=harm,
            similarity={HOSTILE: HOSTILE},
            references={HOSTILE: harm, "x": [{"id": HOSTILE, "reason": HOSTILE}]},
            ladder=[{"rung": HOSTILE, "works": HOSTILE, "leak_rate": None}],
        ),
        evidence=(evidence(HOSTILE, prompt=HOSTILE, label=HOSTILE, pixel={HOSTILE: 1.0}),),
        scores={HOSTILE: [0.5]},
        not_measured=((HOSTILE, HOSTILE),),
        flags=((HOSTILE,) * 3,),
        reproduce=(HOSTILE,),
        provenance=harm,
    )


def test_a_hostile_prompt_stays_text():
    shown = Reader(render(page(evidence=(evidence(prompt=HOSTILE),))))
    assert HOSTILE in shown.words
    assert shown.all("script") == []


def test_every_other_text_stays_text():
    html = render(hostile_page())
    assert "<script" not in html.lower()
    shown = Reader(html)
    assert shown.all("script") == []
    assert not [name for _, attrs in shown.tags for name in attrs if name.startswith("on")]


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_prompt_gives_a_balanced_page_that_can_be_written(prompt):
    html = render(Page(title=prompt, summary={}, evidence=(evidence(prompt=prompt),)))
    Reader(html)
    html.encode("utf-8")


def test_a_prompt_cannot_turn_its_own_text_around():
    html = render(page(evidence=(evidence(prompt="\u202eevil\u202c"),)))
    assert "[U+202E]evil[U+202C]" in html


def test_characters_that_no_file_can_hold_are_replaced():
    html = render(page(title="a\ud800b\x00c"))
    assert "a[U+D800]b[U+0000]c" in html
    html.encode("utf-8")


@pytest.mark.parametrize(
    "shown", [page(), hostile_page(), Page(title="empty", summary={})], ids=["full", "hostile", "empty"]
)
def test_nothing_is_fetched_or_run(shown):
    html = render(shown)
    reader = Reader(html)
    addresses = [
        a[k] for _, a in reader.tags for k in ("src", "href", "srcset", "xlink:href", "action", "data") if k in a
    ]
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in addresses)
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert "http" not in html.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('http-equiv="', "")
    assert not re.search(r"@import|url\((?!#)", html)


def test_pages_hold_landmarks_and_accessible_tables_and_images():
    reader = Reader(render(page(evidence=(evidence(), evidence("w-2", reference=None, replicated=False)))))
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == tags.count("footer") == 1
    assert tags.count("table") == tags.count("caption")
    assert all(th.get("scope") in {"row", "col", "rowgroup"} for th in reader.all("th"))
    assert len(reader.all("img")) == 5
    assert all(img["alt"] for img in reader.all("img"))
    assert reader.all("html") == [{"lang": "en"}]
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in reader.all("a")} <= set(ids)


def test_sections_come_in_the_order_of_reading():
    reader = Reader(render(page()))
    order = " ".join(attrs["id"] for attrs in reader.all("section"))
    assert order == "verdict tested results figures evidence aggregation references limits reproduce glossary"


def test_the_verdict_gives_count_interval_and_control():
    text = words(page()).replace("\u00a0", " ")
    assert "9 of 30 tested works were replicated." in text
    assert "30 %, with a 95 % interval of 14.7 % to 49.4 %" in text
    assert "Control “held-out” at the same threshold: 0 % (n = 30, upper bound 9.5 %)." in text
    assert "The interval of the works lies above that of the control" in text
    assert "not a finding of infringement" in text


def test_zero_events_are_an_upper_bound():
    text = words(page(summary=summary(works={"total": 30, "replicated": 0}, leak_rate=NONE_SEEN))).replace(
        "\u00a0", " "
    )
    assert "None of the 30 tested works was replicated under this protocol." in text
    assert "Zero events are an upper bound, not an absence" in text
    assert "up to 9.5 % remains possible" in text
    assert "contains no copies" not in text


def test_what_further_prompts_add_is_said_only_when_they_add_something():
    def said(**works):
        return words(page(summary=summary(works={"total": 30, "replicated": 9, **works})))

    meaning = "at least one of the 8 images of its first prompt is more similar to the original"
    assert meaning in said()
    assert "With all their prompts, 12 of 30 works were replicated" in said(replicated_by_any_prompt=12)
    assert "With all their prompts" not in said() + said(replicated_by_any_prompt=9)


def test_overlapping_intervals_and_missing_controls_are_said():
    overlap = wording.verdict(summary(controls={"held-out": SOME_SEEN}))
    assert any("overlap: coincidence is not excluded" in sentence for sentence in overlap)
    alone = wording.verdict(summary(controls={}))
    assert any("No control was measured" in sentence for sentence in alone)
    assert any("No control was measured" in s for s in wording.verdict(summary(controls={"held-out": UNKNOWN})))


@pytest.mark.parametrize("works", [None, {}, {"total": 0, "replicated": 0}, {"total": 5, "replicated": None}])
def test_without_tested_works_nothing_is_claimed(works):
    sentences = wording.verdict(summary(works=works, leak_rate=None))
    assert sentences[0] == "No work was tested, so this run says nothing about memorization."
    assert not any("0 %" in s.replace("\u00a0", " ") for s in sentences)


@pytest.mark.parametrize("rate", [None, UNKNOWN, {**UNKNOWN, "estimate": math.nan}])
def test_rates_that_were_not_measured_are_not_zero(rate):
    without = summary(
        leak_rate=rate,
        by_label={"VM": rate},
        controls={"held-out": {"works": 3, "leak_rate": rate, "images": rate}},
        ladder=[{"rung": 0, "works": 4, "mean_score": None, "lower": None, "upper": None, "leak_rate": rate}],
    )
    html = render(page(summary=without, scores={}, evidence=()))
    body = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL).replace("\u00a0", " ")
    assert not re.search(r"\b0(\.0+)? %", body[body.index("<body") :])
    assert body.count("not measured") >= 15


def test_rate_records_are_accepted_as_they_are():
    rate = Rate(estimate=0.3, lower=0.147, upper=0.494, upper_one_sided=0.465, n=30, method="exact")
    assert render(page(summary=summary(leak_rate=rate))) == render(page(summary=summary(leak_rate=plain(rate))))


def test_evidence_is_sorted_by_score_and_misses_are_folded():
    cards = (
        evidence("low", best_score=0.7),
        evidence("miss", best_score=0.3, replicated=False),
        evidence("top", best_score=0.99),
        evidence("unknown", best_score=None, replicated=False),
        evidence("nan", best_score=math.nan, replicated=False),
    )
    html = render(page(evidence=cards))
    places = {name: html.index(f'aria-label="Work {name}"') for name in ("top", "low", "miss", "nan", "unknown")}
    assert list(places) == sorted(places, key=places.__getitem__)
    assert places["low"] < html.index("<details>") < places["miss"]
    assert html.index("seed 1, similarity 0.910") < html.index("seed 0, similarity 0.400")


def test_small_pictures_are_pixelated_and_other_bytes_are_no_picture():
    assert picture(png(64)).small
    assert not picture(png(512)).small
    assert (picture(png(7)).width, picture(b"<svg onload=x>" * 9), picture(None)) == (7, None, None)
    assert "original not available" in words(page(evidence=(evidence(reference=b"\xff\xd8"),)))


def test_a_jpeg_is_a_picture_too():
    content = io.BytesIO()
    Image.new("RGB", (190, 100)).save(content, "JPEG")
    found = picture(content.getvalue())
    assert found.uri.startswith("data:image/jpeg;base64,")
    assert (found.width, found.height, found.small) == (190, 100, False)


def test_what_is_left_out_is_counted():
    cards = (evidence(), evidence("w-2", replicated=False))
    text = words(page(evidence=cards, unshown=(3, 7)))
    assert "The 2 prompts with the highest scores are shown; 10 more prompts, 3 of them above the threshold" in text
    assert "matches.parquet" in text
    assert "above the threshold (4)" in text
    assert "stayed below it (8)" in text
    assert "matches.parquet" not in words(page(evidence=cards))


def test_reference_problems_flags_and_omissions_are_listed():
    text = words(page())
    for expected in (
        "file not found",
        "w-9",
        "no image",
        "too few images",
        "few works",
        "amnestic audit model",
        "packages.torch",
    ):
        assert expected in text


FIGURES = {
    "ladder": lambda: ladder_figure(LADDER, threshold=0.6),
    "histogram": lambda: histogram_figure({"works": [0.2, 0.9], "null pairs": [-0.3, math.inf], "none": []}, 0.6),
    "leak": lambda: leak_figure({"works": SOME_SEEN, "held-out": NONE_SEEN, "attacked": None}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_same_every_time_and_well_formed(name):
    root = drawn_well(name, FIGURES[name])
    assert root.get("role") == "img"


def test_figures_leave_the_settings_of_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg = FIGURES["leak"]()
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        assert FIGURES["leak"]() == svg
    assert dict(matplotlib.rcParams) == before


def test_numbers_of_numpy_count_as_numbers():
    rate = {k: np.float32(v) if isinstance(v, float) else v for k, v in SOME_SEEN.items()} | {"n": np.int64(30)}
    html = render(page(summary=summary(leak_rate=rate, works={"total": np.int64(30), "replicated": np.int64(9)})))
    assert "9 of 30 tested works were replicated." in html
    assert wording.rate_of(np.float32(0.5)) == {"estimate": 0.5}


def test_figures_say_what_was_not_measured():
    assert "not measured" in FIGURES["leak"]()
    assert "not measured" in FIGURES["histogram"]()
    assert "not measured" in ladder_figure([{"rung": 1, "works": 2, "leak_rate": None}])
    assert (ladder_figure([]), histogram_figure({}, 0.5), leak_figure({})) == ("", "", "")


def test_names_in_figures_may_hold_anything():
    names = ["$\\frac{", "作品", "a\nb", "\x00", HOSTILE]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = leak_figure(dict.fromkeys(names, SOME_SEEN)) + histogram_figure({n: [0.1] for n in names}, None)
    assert "<script" not in svg


@given(st.floats(0, 1))
def test_percentages_are_zero_or_everything_only_when_they_are(share):
    text = wording.percent(share)
    assert (text == "0\u00a0%") == (share == 0)
    assert (text == "100\u00a0%") == (share == 1)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (
            {"verdict": "fail", "limit": 0.05},
            "Fail: the one-sided upper bound is 46.5 %, the limit set for this run 5 %.",
        ),
        ({"verdict": "none", "limit": None}, "No limit was set, so nothing was passed or failed."),
        ({"verdict": "Looked at by hand."}, "Looked at by hand."),
        ({}, ""),
    ],
)
def test_the_decision_names_bound_and_limit(recorded, expected):
    assert wording.decision(summary(**recorded)).replace("\u00a0", " ") == expected
    assert expected in words(page(summary=summary(**recorded))).replace("\u00a0", " ")


def test_rates_beside_the_deciding_one_are_shown_when_given():
    text = words(page(summary=summary(median_based_rate=NONE_SEEN, clip="not measured")))
    assert "Memorization rate (median seed)" in text
    assert "Rate under CLIP (best seed) not measured" in text
    assert "(median seed)" not in words(page())


def test_references_are_counted_and_only_problems_are_listed():
    cases = [
        {"id": "a.png", "status": "ok", "reason": ""},
        {"id": "b.png", "status": "unreadable", "reason": "cut off"},
    ]
    found = {"counts": {"ok": 7, "missing": 2}, "files": cases, "reasons": {"c.png": "no such file"}}
    text = words(page(summary=summary(references=found)))
    assert all(row in text for row in ("usable 7", "missing 2", "unreadable b.png cut off", "c.png no such file"))
    assert "a.png" not in text
