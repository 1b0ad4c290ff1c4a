"""The whole report: redacted, self-contained, three findings kept apart, and hostile text stays text."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from found import COMPARED, HOSTILE, attack, facts
from pages import Reader
from PIL import Image
from runs import finished_run

from amnestic import stages
from amnestic.core.errors import InputError
from amnestic.report import redaction
from amnestic.report.findings_auditor import AuditorFile, SignedBy
from amnestic.report.findings_ordinary import Pair
from amnestic.report.findings_parts import Missing, not_measured
from amnestic.report.found import findings_of
from amnestic.report.run_facts import RecordFacts
from amnestic.report.whole import render_findings
from amnestic.report.whole_answer import answers, paragraph
from amnestic.report.whole_pictures import CHANGED, NO_ORIGINALS, Sources, tiles_of
from amnestic.report.whole_rows import absent_keys
from amnestic.stages.reporting import ReportRequest, report

RNG = np.random.default_rng(0)
RTL = "\u202eevil"
LONG = "w" * 400


def picture(seed, side=64):
    """A picture of random blocks, as PNG."""
    image = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    image = np.kron(image, np.ones((side // 16, side // 16, 1), dtype=np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def nothing(name):
    return None


def shown(run, said=None, opened=nothing, **options):
    return render_findings(findings_of(run, said), opened, **options)


def drawn(run, content):
    """The run, with the checksum of a picture recorded for every image."""
    digest = hashlib.sha256(content).hexdigest()
    return replace(run, samples=[{**row, "sha256": digest} for row in run.samples])


def pictures_in(text):
    found = re.findall(r'<img[^>]* src="data:image/jpeg;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


@pytest.fixture
def whole():
    return facts(records=[attack(0, 2)], before_after=COMPARED)


@pytest.fixture(scope="module")
def page_text():
    run = drawn(facts(records=[attack(0, 2)], before_after=COMPARED), picture(5))
    return shown(run, opened=lambda name: picture(5))


class TestThreeFindings:
    def test_each_has_its_count_its_bound_and_its_control(self, whole):
        one, two, three = answers(findings_of(whole))
        assert (one.value, two.value, three.value) == ("2 of 3", "2 of 4", "0 of 3")
        assert one.controls[0][0] == "held-out"
        assert one.controls[0][1].startswith("0 of 2: 0\u00a0%; one-sided 95\u00a0% upper bound")
        assert two.controls == (("works never trained on", two.controls[0][1]),)
        assert "upper bound" in three.certainty
        assert "Zero events are an upper bound, not an absence." in three.reading

    def test_what_was_not_measured_says_why_and_how_it_would_be(self):
        _, two, three = answers(findings_of(facts()))
        for one, command in ((two, "amnestic attack run"), (three, "--before run")):
            assert one.value == "not measured"
            assert one.why
            assert command in one.command
        assert "What an attack could bring back was not measured." in paragraph(findings_of(facts()))

    def test_without_works_the_first_finding_is_not_measured(self):
        empty = facts({}, leak_rate=None)
        assert not answers(findings_of(empty))[0].measured
        Reader(shown(empty))

    def test_the_strongest_attack_that_can_be_trusted_is_named_first(self):
        weak = attack(0, 1, name="attack-aaaaaaaaaaaa")
        strong = replace(attack(0, 3, name="attack-bbbbbbbbbbbb"), name="gcg-prompt")
        broken = replace(attack(0, 4, name="attack-cccccccccccc"), name="null-text")
        verdict = {**broken.data["verdict"], "conclusion": "not trustworthy"}
        broken = replace(broken, data={**broken.data, "verdict": verdict})
        found = answers(findings_of(facts(records=[weak, broken, strong])))[1]
        assert "gcg-prompt" in found.what
        assert "2 more attacks were run" in found.reading[-1]

    @pytest.mark.parametrize("run", [facts(), facts(records=[attack(0, 0)], before_after=COMPARED)])
    def test_an_absence_is_never_claimed(self, run):
        text = " ".join(Reader(shown(run)).text).lower()
        for claim in ("contains no copies", "no copies are", "is free of", "is compliant", "infringes"):
            assert claim not in text

    def test_smoke_runs_are_called_so_above_everything(self, page_text):
        assert "Its numbers are no audit." in page_text


class TestPage:
    def test_nothing_is_fetched_and_nothing_runs(self, page_text):
        page = Reader(page_text)
        assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "form")]
        addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href")]
        assert addresses
        assert all(value.startswith(("#", "data:image/")) for value in addresses)
        assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
        assert not re.search(r"url\(http|@import", page_text)

    def test_links_have_targets_and_ids_are_unique(self, page_text):
        page = Reader(page_text)
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        targets = {a["href"].removeprefix("#") for a in page.all("a")}
        assert targets <= set(ids)
        labels = {name for _, attrs in page.tags for name in attrs.get("aria-labelledby", "").split()}
        assert labels <= set(ids)

    def test_headings_are_in_order_and_tables_have_scopes(self, page_text):
        page = Reader(page_text)
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels.index(1) == 0
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert all("scope" in attrs for attrs in page.all("th"))
        assert len(page.all("caption")) == len(page.all("table"))
        assert all(attrs.get("tabindex") == "0" for attrs in page.all("div") if attrs.get("class") == "scroll")
        assert len(page.all("main")) == 1
        assert page.all("html")[0]["lang"] == "en"

    def test_figures_are_drawn_and_told(self, page_text):
        text = page_text
        svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        assert len(svgs) >= 3
        for svg in svgs:
            root = ElementTree.fromstring(svg)
            title = root.find("{http://www.w3.org/2000/svg}title")
            assert (root.get("role"), root.get("aria-labelledby")) == ("img", title.get("id"))
            assert len(title.text) > 10

    def test_it_prints(self, page_text):
        text = page_text
        assert "size: A4" in text
        assert "break-inside: avoid" in text
        assert "details::details-content" in text

    @pytest.mark.parametrize("text", [HOSTILE, RTL + "\u2067x", LONG, "\x00\x1b[31m", '"><img src=x onerror=alert(1)>'])
    def test_hostile_text_stays_text(self, text):
        run = facts({text: (0.9, 0.2), "w1": (0.1, 0.1)}, records=[attack(0, 2)])
        said = AuditorFile(title=text, name=text, client=text, licence=text, prepared=SignedBy(name=text, role=text))
        page = Reader(shown(drawn(run, picture(1)), said, opened=lambda name: picture(1)))
        assert len(page.all("img")) == 2
        assert not page.all("script")
        assert all(attrs["src"].startswith("data:image/jpeg") for attrs in page.all("img"))
        assert not set("\u202e\u2067\x00\x1b") & set("".join(page.text))

    def test_what_only_a_person_can_say_is_asked_for_once(self, whole):
        assert {"client", "prepared", "limit_set_by"} <= set(absent_keys(findings_of(whole)))
        assert "client" not in absent_keys(findings_of(whole, AuditorFile(client="B. Person")))

    def test_framework_items_point_at_sections(self, page_text):
        text = page_text
        for item in ("MP-4.1-002", "Measure 1.4 (i)", "Audit Cards"):
            assert item in text

    def test_the_digest_is_that_of_the_json(self, tmp_path):
        run = finished_run(tmp_path / "run", [0.9, 0.2], n_heldout=2)
        made = report(ReportRequest(run=run.folder, formats=("json", "html"), out=tmp_path / "out"))
        files = {file.suffix: file.read_bytes() for file in made.files}
        assert hashlib.sha256(files[".json"]).hexdigest() in files[".html"].decode()

    def test_units_by_layer_of_a_locate_record(self):
        record = RecordFacts(id="locate-1", stage="locate", name="nemo", parameters={}, data={})
        told = (
            b'{"data": {"units": 3, "share": 0.1, "works": ["w0"], "counts": {"mid.to_v": 3, "up.to_v": 0}, "sites": '
            b'[{"name": "mid.to_v", "kind": "value", "shape": [12]}, {"name": "up.to_v", "shape": [5, 2]}]}}'
        )
        opened = {"records/locate-1/record.json": told}.get
        text = shown(facts(records=[record]), opened=opened)
        assert "Found by the localizer nemo" in text
        assert re.search(r"of 12</small>.*?25\u00a0%", text, re.DOTALL)
        damaged = shown(facts(records=[record]), opened={"records/locate-1/record.json": b"{"}.get)
        assert "Found by the localizer" not in damaged

    def test_a_hundred_works_stay_small(self):
        run = facts({f"w{i}": (0.9, 0.8) for i in range(130)})
        text = shown(drawn(run, picture(1)), opened=lambda name: picture(1), originals=lambda name: picture(3))
        assert len(pictures_in(text)) == 100 + 2 * 99  # one original is not as it was recorded: no overlay either
        assert text.count("<article") - 3 == 100
        assert len(text.encode()) < 3_000_000


class TestRedaction:
    def pair(self, image, original):
        return Pair(
            work="w", prompt_id="p", prompt="p", seed=0, score=0.9, original="o.png", image="i.png",
            original_sha256=hashlib.sha256(original).hexdigest(), image_sha256=hashlib.sha256(image).hexdigest(),
        )  # fmt: skip

    def test_pictures_are_blurred_by_default(self, page_text):
        text = page_text
        assert base64.b64encode(picture(5)).decode() not in text
        original = np.asarray(Image.open(io.BytesIO(picture(5))).convert("RGB"), dtype=float)
        found = pictures_in(text)
        assert len(found) == 3
        for one in found:
            small = np.asarray(Image.fromarray(one).resize((64, 64), Image.Resampling.BICUBIC), dtype=float)
            assert abs(_kept(original, small)) < 0.05
        assert "Originals are shown." not in text

    def test_no_more_than_the_cells_are_left(self):
        """Pictures with equal cells are blurred alike, however much they differ."""
        rng = np.random.default_rng(0)
        one = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        shuffled = one.copy()
        for row, column in np.ndindex(8, 8):
            place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            shuffled[place] = rng.permutation(one[place].reshape(64, 3)).reshape(8, 8, 3)
        assert np.abs(one.astype(int) - shuffled).mean() > 60
        assert redaction.blurred(one) == redaction.blurred(shuffled)

    def test_originals_only_when_asked_for_and_then_it_is_said(self, whole):
        text = shown(drawn(whole, picture(5)), opened=lambda name: picture(5), show_originals=True)
        assert "Originals are shown." in text
        original = np.asarray(Image.open(io.BytesIO(picture(5))).convert("RGB"), dtype=float)
        assert any(found.shape == original.shape and _kept(original, found) > 0.8 for found in pictures_in(text))

    def test_both_hashes_are_printed(self):
        image, original = picture(1), picture(2)
        tiles = tiles_of(
            self.pair(image, original), Sources(run={"i.png": image}.get, originals={"o.png": original}.get)
        )
        assert [tile.title for tile in tiles] == ["Original", "Generation", "Where both agree"]
        assert tiles[0].sha256 == hashlib.sha256(original).hexdigest()
        assert re.fullmatch("[0-9a-f]{16}", tiles[1].perceptual)

    def test_a_file_that_changed_is_not_shown(self):
        image, original = picture(1), picture(2)
        opened = {"i.png": image, "o.png": original}
        tiles = tiles_of(self.pair(original, original), Sources(run=opened.get, originals=opened.get))
        assert (tiles[1].uri, tiles[1].why) == ("", CHANGED)
        assert len(tiles) == 2

    def test_without_originals_there_is_no_overlay_and_the_reason(self):
        image = picture(1)
        pair = self.pair(image, image).model_copy(update={"image_sha256": not_measured("gone")})
        tiles = tiles_of(pair, Sources(run={"i.png": image}.get))
        assert [tile.why for tile in tiles] == [NO_ORIGINALS, ""]

    def test_what_is_no_picture_is_said_to_be_none(self):
        tiles = tiles_of(self.pair(b"<svg/>", b"<svg/>"), Sources(run=lambda name: b"<svg/>"))
        assert tiles[1].why == "cannot be read as a picture"
        assert isinstance(not_measured("x"), Missing)

    def test_overlays_show_where_both_agree(self):
        one = np.asarray(Image.open(io.BytesIO(picture(1))))
        other = one.copy()
        other[:, 32:] = np.random.default_rng(1).integers(0, 255, (64, 32, 3), dtype=np.uint8)
        cells = redaction.agreement(one, other)
        assert (cells[:, :3] > 0.99).all()
        assert (cells[:, 5:] < 0.5).all()
        drawn = np.asarray(Image.open(io.BytesIO(redaction.overlaid(one, cells))), dtype=float)
        orange = drawn[..., 0] - drawn[..., 2]
        assert orange[:, :30].mean() > 60 > 15 > abs(orange[:, 66:].mean())

    def test_perceptual_hashes_are_near_for_copies_and_far_for_others(self):
        one, other = (np.asarray(Image.open(io.BytesIO(picture(seed)))) for seed in (1, 2))
        noisy = (one.astype(int) + RNG.integers(-6, 7, one.shape)).clip(0, 255).astype(np.uint8)
        bits = [int(redaction.perceptual_hash(image), 16) for image in (one, noisy, other)]
        assert (bits[0] ^ bits[1]).bit_count() <= 4
        assert (bits[0] ^ bits[2]).bit_count() >= 16


class TestCommandOptions:
    @pytest.mark.parametrize("option", ["references", "before"])
    def test_folders_that_cannot_be_meant_are_refused(self, tmp_path, option):
        run = finished_run(tmp_path / "run", [0.9, 0.2])
        with pytest.raises(InputError, match=f"--{option}"):
            report(ReportRequest(run=run.folder, formats=("html",), **{option: tmp_path / "nowhere"}))
        assert not (run.folder / "report").exists()

    def test_originals_are_found_in_the_folder_and_not_outside(self, tmp_path):
        originals = tmp_path / "originals"
        originals.mkdir()
        (originals / "w0.png").write_bytes(picture(7))
        (tmp_path / "w1.png").write_bytes(picture(8))
        digest = hashlib.sha256(picture(7)).hexdigest()
        run = finished_run(tmp_path / "run", [0.9, 0.8], hashes={"w0.png": digest})
        request = ReportRequest(run=run.folder, formats=("html",), references=originals, out=tmp_path / "out")
        text = report(request).files[0].read_text("utf-8")
        assert text.count("data:image/jpeg") == 1
        assert redaction.perceptual_hash(np.asarray(Image.open(io.BytesIO(picture(7))))) in text
        assert report(request).files[0].read_text("utf-8") == text


class TestAuditPage:
    def test_the_page_of_an_audit_is_blurred_unless_asked(self, request_of):
        stages.audit(request_of)
        page = (request_of.out / "report.html").read_text()
        assert "data:image/png" not in page  # pictures of 64 pixels would be shown whole, as PNG
        assert {found.shape for found in pictures_in(page)} == {(48, 48, 3)}
        assert "Pictures are blurred" in page
        stages.audit(replace(request_of, show_originals=True))
        page = (request_of.out / "report.html").read_text()
        assert "data:image/png" in page
        assert "may reproduce protected works" in page


def _kept(original, found):
    """How much of what is finer than the 8 by 8 cells is left."""
    fine = original - _low(original)
    return np.sum(fine * (found - _low(found))) / np.sum(fine * fine)


def _low(image):
    cells = image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    return np.kron(cells, np.ones((8, 8, 1)))
