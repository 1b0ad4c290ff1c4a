"""The report of an edited model: what changed, what is undecided, what it cost, and what was not measured."""

import io
import math
import re
from html import unescape
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import (
    HOSTILE,
    NONE_SEEN,
    SOME_SEEN,
    UNKNOWN,
    Reader,
    change,
    edited,
    edited_page,
    evidence,
    means_row,
    page,
    png,
    rates_row,
    summary,
    words,
)

from amnestic.core.records import plain
from amnestic.measures.intervals import rate
from amnestic.report import wording
from amnestic.report.before_after import before_after, sentences
from amnestic.report.before_after_rows import reading
from amnestic.report.figures import before_after_figure, leak_figure
from amnestic.report.html import by_seed, render
from amnestic.report.inline import inline_svg

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a"/><path clip-path="url(#a)"/><use href="#a"/></svg>'
PLAIN = str.maketrans({"\u00a0": " ", "\u2212": "-"})
FELL = {"n": 30, "only_before": 9, "only_after": 0, "p_value": 0.0039}


def section(shown):
    """Words of the section alone."""
    html = render(shown)
    start = html.index('<section id="before-after"')
    return Reader(html[start : html.index("</section>", start) + len("</section>")]).words.translate(PLAIN)


def headline(**changes):
    return sentences(edited(**changes))[0].translate(PLAIN)


def table(html, caption):
    """Rows of cells of one table, as text."""
    start = html.index(f'aria-label="{caption}"')
    body = html[start : html.index("</table>", start)].translate(PLAIN)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    return [
        [
            " ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split())
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in rows
    ]


def test_the_section_and_its_entry_exist_only_for_an_edited_model():
    with_it, without = Reader(render(edited_page())), Reader(render(page()))
    ids = [[attrs.get("id") for attrs in reader.all("section")] for reader in (with_it, without)]
    assert ids[0][:3] == ["verdict", "before-after", "tested"]
    assert "before-after" not in ids[1]
    assert [{"href": "#before-after"} in reader.all("a") for reader in (with_it, without)] == [True, False]
    assert "McNemar" not in without.words


@pytest.mark.parametrize("found", [None, "not measured", [], 3])
def test_what_is_no_mapping_is_no_comparison(found):
    assert before_after(found) is None
    assert render(page(summary=summary(before_after=found))) == render(page())


def test_the_headline_says_what_was_edited_what_became_of_the_rate_and_what_it_cost():
    assert headline() == (
        "The edit “zero-units” changed 12,345 weights (0.34 % of the U-Net, chosen by “wanda-subspace” from 8 works); "
        "the memorization rate fell from 80 % to 30 % of 30 works (McNemar p < 0.001); CLIP alignment of base prompts "
        "changed by -1.3 % of its mean before (interval -2.1 % to -0.4 %)."
    )
    assert headline() in section(edited_page())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"mcnemar": {"p_value": 0.05}}, "whether the memorization rate fell is undecided"),
        ({"mcnemar": {"p_value": 0.0499}}, "the memorization rate fell from 80 % to 30 %"),
        ({"mcnemar": None}, "fell is undecided (80 % before, 30 % after, 30 works, McNemar test not measured)"),
        ({"mcnemar": {"p_value": math.nan}}, "is undecided (80 % before, 30 % after, 30 works, McNemar test not"),
        ({"before": NONE_SEEN, "mcnemar": FELL}, "the memorization rate rose from 0 % to 30 %"),
        ({"before": SOME_SEEN, "mcnemar": {"p_value": 1.0}}, "whether the memorization rate changed is undecided"),
        ({"before": None}, "whether the memorization rate fell was not measured (not measured before, 30 % after)"),
        ({"after": UNKNOWN}, "whether the memorization rate fell was not measured (80 % before, not measured after)"),
    ],
)
def test_a_change_is_claimed_only_when_the_test_supports_it(row, expected):
    assert expected in headline(rates=[rates_row(**row)])


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 1))
def test_no_rates_are_read_as_a_change_at_a_high_p(before, after, p):
    assert reading(before, after, p) == "undecided"


def test_zero_events_after_an_edit_are_an_upper_bound():
    row = rates_row(after=NONE_SEEN, mcnemar=FELL)
    assert "where zero events leave a rate of up to 9.5 % possible (one-sided 95 % bound)" in headline(rates=[row])
    unbounded = rates_row(after={"estimate": 0.0, "n": 30}, mcnemar=FELL)
    assert "the upper bound that belongs to zero events was not measured" in headline(rates=[unbounded])
    text = section(edited_page(rates=[row]))
    assert "0 % upper bound 9.5 %" in text
    assert "contains no copies" not in text
    assert "may still be in the weights" in text


def test_works_that_the_edit_was_not_made_from_are_put_into_words():
    said = " ".join(sentences(edited())).translate(PLAIN)
    assert (
        "On works that the edit was not made from, whether the memorization rate of “other works” fell is undecided "
        "(80 % before, 30 % after, 30 works, McNemar p = 0.25)."
    ) in said
    assert "not made from" not in " ".join(sentences(edited(rates=[rates_row()])))


def test_all_works_are_put_into_words_wherever_they_stand():
    rung = rates_row("rung 4", before=SOME_SEEN, mcnemar=None)
    assert "the memorization rate fell from 80 % to 30 %" in headline(rates=[rung, rates_row()])
    assert "whether the memorization rate of “rung 4” changed is undecided" in headline(rates=[rung])


def test_the_cost_is_a_loss_on_controls_and_undecided_when_its_interval_says_so():
    spared = means_row("SSCD_Gen", "base prompts", "higher is better", change(-0.1, -0.2, 0.01), 1.0, 0.9)
    works = means_row("CLIP alignment", "works", "higher is better", change())
    assert headline(changes=[works, spared]).endswith(
        "SSCD_Gen of base prompts changed by -0.100 (interval -0.200 to +0.0100), "
        "which leaves open whether it cost anything."
    )
    assert "CLIP-MMD to real base images changed by +0.0000560" in headline(changes=[works])
    assert headline(changes=[works], distances=[]).endswith("what it cost was not measured.")
    unknown = means_row("CLIP alignment", "base prompts", "higher is better", {"estimate": math.nan})
    assert headline(changes=[unknown], distances=[]).endswith("what it cost was not measured.")


def test_an_edit_that_was_not_recorded_is_said_to_be():
    assert headline(edit=None).startswith("No edit was recorded between the two models; the memorization rate fell")
    text = section(edited_page(edit=None))
    assert "Edit All of it not given" in text
    assert "Layers that were changed: not measured." in text


def test_rates_have_intervals_counts_and_a_test():
    html = render(edited_page())
    assert table(html, "Memorization rate before and after, on the same works")[1:] == [
        ["all works", "30", "80 % 61.4 % to 92.3 %", "30 % 14.7 % to 49.4 %", "16", "1", "fell p < 0.001"],
        ["other works", "30", "80 % 61.4 % to 92.3 %", "30 % 14.7 % to 49.4 %", "3", "0", "undecided p = 0.25"],
    ]


def test_a_group_that_could_only_fall_is_marked():
    assert "can only fall" not in section(edited_page())
    assert "can only fall" in section(edited_page(rates=[rates_row(before=plain(rate(12, 12)))]))


def test_changes_show_the_bound_on_the_side_where_it_hurts():
    rows = [
        *edited()["changes"],
        means_row("D_SSCD", "base prompts", "", change(0.001, -0.01, 0.02), 0.2, 0.201),
        means_row("likeness", "works", "higher is better", None, 0.2, None),
    ]
    shown = table(render(edited_page(changes=rows)), "Means before and after")
    unit = "cosine, sscd-mini"
    assert shown[1:] == [
        [f"SSCD_Orig works ; {unit}", "lower", "0.811", "0.441", "-0.370 -0.400 to -0.350", "at most -0.360", "fell"],
        [f"CLIP alignment base prompts ; {unit}", "higher", "0.811", "0.441", "-1.3 % -2.1 % to -0.4 %",
         "at least -1.1 %", "fell"],
        [f"D_SSCD base prompts ; {unit}", "-", "0.200", "0.201", "+0.00100 -0.0100 to +0.0200", "-", "undecided"],
        [f"likeness works ; {unit}", "higher", "0.200", *["not measured"] * 4],
    ]  # fmt: skip


def test_distances_of_any_size_are_readable():
    shown = table(render(edited_page()), "Distances before and after")
    assert shown[1] == [
        "CLIP-MMD to real base images ViT-B-32", "lower", "0.000451", "0.000507",
        "+0.0000560 -0.0000100 to +0.000100", "undecided",
    ]  # fmt: skip


def test_layers_are_grouped_by_stage_and_drawn_relative_to_the_highest():
    html = render(edited_page())
    shown = table(html, "Units chosen in each layer")
    assert [row[0] for row in shown if len(row) == 1] == [
        "down : 150 of 2,000, 7.5 %",
        "mid : not measured",
        "up : 300 of 1,000, 30 %",
    ]
    assert [row[1:] for row in shown if len(row) == 3][1:] == [
        ["0 of 1,000", "0 %"],
        ["150 of 1,000", "15 %"],
        ["not measured of 1,000", "not measured"],
        ["300 of 1,000", "30 %"],
    ]
    assert re.findall(r'class="bar" style="width: ([\d.]+)%"', html) == ["50.0", "100.0"]


@pytest.mark.parametrize("nothing", [None, [], "not measured", math.nan])
def test_parts_that_were_not_measured_are_never_zero(nothing):
    parts = ("before", "after", "edit", "rates", "changes", "distances", "not_measured")
    for shown in (dict.fromkeys(parts, nothing), {}):
        text = section(page(summary=summary(before_after=shown)))
        assert not re.search(r"\b0(\.0+)?( %|\b(?!\.05))", text)
        for part in ("Memorization rates before and after", "Means before and after", "Distances before and after"):
            assert f"{part}: not measured." in text
        assert "what it cost was not measured" in text


def test_numbers_missing_inside_rows_are_not_measured():
    def unknown(keys):
        return dict.fromkeys(keys, math.nan)

    rows = {
        "edit": {**edited()["edit"], **unknown(("weights", "share", "selected")), "located_by": None,
                 "sites": [{"name": "a", "stage": "up", "kind": "", **unknown(("chosen", "size"))}]},
        "rates": [rates_row(works=None, before=UNKNOWN, after=math.nan, mcnemar={"p_value": None})],
        "changes": [means_row("x", "works", "", unknown(("estimate", "lower", "upper")), None, math.nan)],
        "distances": [{"name": "y", "unit": "", "before": None, "after": None, "change": None}],
    }  # fmt: skip
    html = render(edited_page(**rows))
    text = section(edited_page(**rows))
    assert "changed a number of weights that was not measured (share of the U-Net not measured, how they were" in text
    assert table(html, "Memorization rate before and after, on the same works")[1] == [
        "all works", *["not measured"] * 6,
    ]  # fmt: skip
    assert table(html, "Means before and after")[1][2:] == [*["not measured"] * 3, "-", "not measured"]
    assert table(html, "Distances before and after")[1][2:] == ["not measured"] * 4
    assert table(html, "Units chosen in each layer")[-1] == ["a", "not measured of not measured", "not measured"]
    assert "nan" not in text.lower()


def test_omissions_are_listed_with_their_reason():
    assert "KID no Inception weights" in section(edited_page())
    assert "FID no reason given" in section(edited_page(not_measured=["FID", None]))


def hostile_comparison():
    site = {"name": f"up.{HOSTILE}", "stage": HOSTILE, "kind": HOSTILE, "chosen": 1, "size": 2}
    edit = {**edited()["edit"], "method": HOSTILE, "located_by": HOSTILE, "parameters": {HOSTILE: HOSTILE},
            "located_parameters": {HOSTILE: [HOSTILE]}, "sites": [site]}  # fmt: skip
    return edited(
        before={"model": HOSTILE, "digest": HOSTILE, "run": HOSTILE},
        edit=edit,
        rates=[rates_row(HOSTILE, before=None, after={**SOME_SEEN, "method": HOSTILE})],
        changes=[means_row(HOSTILE, f"base {HOSTILE}", "higher is better", change(method=HOSTILE))],
        distances=[{"name": HOSTILE, "unit": HOSTILE, "before": 1.0, "after": 2.0, "change": change(method=HOSTILE)}],
        not_measured=[[HOSTILE, HOSTILE]],
    )


def test_hostile_names_stay_text_and_nothing_is_fetched():
    card = evidence(HOSTILE, prompt=HOSTILE, before=((0, 0.4, b"<svg onload=x>"),))
    shown = page(
        summary=summary(before_after=hostile_comparison()), evidence=(card,), figures={HOSTILE: SVG, "x": HOSTILE}
    )
    html = render(shown)
    reader = Reader(html)
    assert "<script" not in html.lower()
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]
    addresses = [a[k] for _, a in reader.tags for k in ("src", "href") if k in a]
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in addresses)
    assert HOSTILE in reader.words


def test_the_page_of_an_edited_model_stays_accessible():
    card = evidence(before=((0, 0.9, png()),))
    shown = page(summary=summary(before_after=edited()), evidence=(card,), figures={"one": SVG, "two": SVG})
    reader = Reader(render(shown))
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("table") == tags.count("caption")
    assert all(th.get("scope") in {"row", "col", "rowgroup"} for th in reader.all("th"))
    assert all(img["alt"] for img in reader.all("img"))
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag in ("a", "use") for a in reader.all(tag)} <= set(ids)


def test_cards_align_seeds_before_and_after():
    card = evidence(
        before=((0, 0.95, png(5)), (2, math.nan, png(6))), generations=((1, 0.97, png(8)), (0, 0.4, png(4)))
    )
    assert [(seed, before is None, after is None) for seed, before, after in by_seed(card)] == [
        (1, True, False),
        (0, False, False),
        (2, False, True),
    ]
    html = render(page(evidence=(card,)))
    text = Reader(html).words
    assert "seed 1 no picture before not measured after 0.970" in text
    assert "seed 0 before 0.950 after 0.400" in text
    assert "seed 2 before not measured no picture after not measured" in text
    assert "best after the edit 0.910" in text
    assert html.count('<figure class="over">') == 2


def test_cards_without_a_model_before_are_as_they_were():
    html = render(page())
    assert "twin" not in html[html.index("<body") :]
    assert "before the edit" not in html


def test_the_figure_shows_both_sides_and_what_was_not_measured():
    rows = [rates_row(), rates_row("a", before=None), rates_row("held_out", before=NONE_SEEN, after=NONE_SEEN)]
    svg = before_after_figure(rows)
    assert svg == before_after_figure(rows)
    root = ElementTree.parse(io.StringIO(svg)).getroot()
    texts = ["".join(e.itertext()).replace("\u00a0", " ") for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"all works: 80 % → 30 %", "a: not measured → 30 %", "before", "after"} <= set(texts)
    assert "held-out: 0 % (up to 9.5 %) → 0 % (up to 9.5 %)" in texts
    assert all(e.get("id").startswith("before-after-") for e in root.iter() if e.get("id"))
    assert root.get("role") == "img"
    assert before_after_figure([]) == ""


def test_long_group_names_do_not_squeeze_the_figure():
    drawn = before_after_figure([rates_row("a very long name " * 20)])
    axis = [
        re.search(r'xtick_5.*?x="([\d.]+)"', svg, re.DOTALL)[1] for svg in (drawn, before_after_figure([rates_row()]))
    ]
    assert float(axis[0]) == pytest.approx(float(axis[1]), abs=1)


def test_figures_of_this_room_are_shown_as_they_are():
    svg = leak_figure({"works": SOME_SEEN, HOSTILE: NONE_SEEN})
    assert inline_svg(svg) == svg
    html = render(page(summary=summary(before_after=edited()), figures={"Steps & layers": SVG, "empty": ""}))
    assert "<figcaption><bdi>Steps &amp; layers</bdi></figcaption>" in html
    assert '<use href="#drawing-0-a"/>' in html
    assert '<path clip-path="url(#drawing-0-a)"/>' in html
    assert "<bdi>empty</bdi>" not in html


@pytest.mark.parametrize(
    "harm",
    [
        "<p>text</p>",
        " " + SVG,
        SVG + "<script>alert(1)</script>",
        SVG + SVG,
        SVG + "text",
        "<svg><script>alert(1)</script></svg>",
        "<svg onload='alert(1)'></svg>",
        "<svg><path ONCLICK='x'/></svg>",
        "<svg><foreignObject><body/></foreignObject></svg>",
        "<svg><a href='#x'/></svg>",
        "<svg><animate/></svg>",
        "<svg><image href='https://example.org/x.png'/></svg>",
        "<svg xmlns:xlink='http://www.w3.org/1999/xlink'><use xlink:href='javascript:x'/></svg>",
        "<svg><path style='fill: url( https://example.org )'/></svg>",
        "<svg><style>@import 'x';</style></svg>",
        "<svg><style><img src='x'/></style></svg>",
        "<svg><!-- --><path/></svg>",
        "<svg><style><![CDATA[</style><script>]]></style></svg>",
        "<svg><path></svg>",
        "<svgx/>",
    ],
)
def test_anything_else_is_no_figure(harm):
    assert inline_svg(harm) is None
    html = render(page(summary=summary(before_after=edited()), figures={"a caption": harm}))
    assert "Not shown: this is no drawing" in html
    assert harm not in html


@given(st.floats(-1, 10, allow_subnormal=False))
def test_relative_changes_keep_their_sign_and_are_zero_only_when_they_are(share):
    text = wording.signed_percent(share)
    assert (text == "0\u00a0%") == (share == 0)
    assert ("\u2212" in text) == (share < 0)
    assert ("+" in text) == (share > 0)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(-0.00001, "> -0.01 %"), (0.00001, "< +0.01 %"), (-0.9999, "> -100 %"), (0.9999, "> +99.9 %"), (-1.0, "-100 %")],
)
def test_relative_changes_near_zero_and_near_everything(share, expected):
    assert wording.signed_percent(share).translate(PLAIN) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_is_not_zero_is_not_shown_as_zero(value):
    assert (float(wording.scaled(value).replace("\u2212", "-")) == 0) == (value == 0)


def test_the_glossary_explains_the_tests_that_were_used():
    assert "Paired bootstrap" in words(edited_page())
    assert "Paired bootstrap" not in words(page())
