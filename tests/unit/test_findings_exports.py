"""Exports of the findings: what each form says, that hostile text stays text, and that nothing is sent unasked."""

import json
import re
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from types import SimpleNamespace
from xml.etree import ElementTree

import huggingface_hub
import pytest
import yaml
from found import COMPARED, HOSTILE, attack, facts
from huggingface_hub.errors import EntryNotFoundError
from markdown_it import MarkdownIt
from PIL import ImageFile

from amnestic.core.errors import InputError
from amnestic.core.records import plain
from amnestic.measures.intervals import rate
from amnestic.report.as_card import BEGIN, END, card_section, eval_results, with_section
from amnestic.report.as_cyclonedx import as_cyclonedx
from amnestic.report.as_junit import as_junit
from amnestic.report.as_markdown import as_markdown, inert
from amnestic.report.as_pdf import as_pdf, on_paper
from amnestic.report.as_tables import as_tables
from amnestic.report.findings import digest_of
from amnestic.report.findings_auditor import AuditorFile
from amnestic.report.findings_parts import Missing
from amnestic.report.found import findings_of
from amnestic.stages.publishing import publish


@pytest.fixture
def run():
    return facts(records=[attack(0, 2)], before_after=COMPARED)


@pytest.fixture
def found(run):
    return findings_of(run)


class TestMarkdown:
    def test_rates_stand_beside_controls(self, found):
        text = as_markdown(found)
        assert "| ordinary | all works | replicated, best of the seeds | 2 of 3 |" in text
        assert "| ordinary | control: held-out | above the threshold | 0 of 2 | 0 % |" in text
        assert "| attacked | control: works never trained on | back by the end of dori | 0 of 4 |" in text
        assert "| mitigated | all works | replicated after | 0 of 3 |" in text
        assert digest_of(found) in text
        assert "Smoke only" in text

    def test_hostile_text_stays_text(self, found):
        text = as_markdown(found)
        assert "<script" not in text.replace("\\<", "")
        assert "\\<script\\>alert(1)\\</script\\> \\| a red" in text
        assert "\x1b" not in text
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in tables)

    @pytest.mark.parametrize("mark", ["\u202e", "\u200f", "\u061c", "\n", "\r", "\x00", "\u2028"])
    def test_marks_that_nobody_sees_become_a_space(self, mark):
        assert inert(f"a{mark}b") == "a b"

    @pytest.mark.parametrize(
        "text", ["- one", "+ one", "1. one", "12) one", "=== ", "https://a.example", "www.a.example"]
    )
    def test_text_begins_no_list_or_heading_and_is_no_link(self, text):
        reader = MarkdownIt("commonmark")
        assert reader.render(inert(text)) == f"<p>{text.strip()}</p>\n"
        assert not re.search(r"https?://|www\.", inert(text))


class TestJUnit:
    def cases(self, findings):
        root = ElementTree.fromstring(as_junit(findings))
        return root, {(c.get("classname"), c.get("name")): c for c in root.iter("testcase")}

    def test_a_work_above_the_threshold_is_a_failure_with_its_score(self, found):
        _, cases = self.cases(found)
        assert "score 0.900 above the threshold 0.700" in cases["ordinary prompts", "w0"].find("failure").get("message")
        assert len(cases["ordinary prompts", "w2"]) == 0
        assert len(cases["controls", "held-out"]) == 0
        assert cases["attack dori (attack-0123456789ab)", "w1"].find("failure") is not None
        assert len(cases["attack dori (attack-0123456789ab)", "w2"]) == 0
        assert cases["not measured", "Membership"].find("skipped") is not None

    def test_counts_agree_with_cases(self, found):
        root, cases = self.cases(found)
        for name, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert int(root.get(name)) == sum(len(list(s.iter(tag))) for s in root)
        assert int(root.get("tests")) == len(cases) == sum(int(s.get("tests")) for s in root)

    @pytest.mark.parametrize(
        ("verdict", "limit", "tag"),
        [("fail", 0.5, "failure"), ("pass", 0.99, None), ("inconclusive", 0.1, "error"), ("none", None, "skipped")],
    )
    def test_the_gate_is_a_case(self, verdict, limit, tag):
        _, cases = self.cases(findings_of(facts(verdict=verdict, limit=limit)))
        (gate,) = [case for (suite, _), case in cases.items() if suite == "gate"]
        assert [child.tag for child in gate] == ([tag] if tag else [])

    def test_a_control_above_the_threshold_fails(self):
        _, cases = self.cases(findings_of(facts(controls={"heldout": {"works": 2, "leak_rate": plain(rate(1, 2))}})))
        assert "50\u00a0% of 2" in cases["controls", "held-out"].find("failure").get("message")

    def test_what_was_not_measured_is_skipped_and_not_passed(self):
        nothing = {"estimate": None, "lower": None, "upper": None, "upper_one_sided": None, "n": 0, "method": "none"}
        record = attack(0, 0)
        record.data["verdict"]["arms"]["heldout"]["curve"] = []
        record.data["verdict"]["arms"]["works"]["works"][0] |= {"after": None, "step": None}
        _, cases = self.cases(
            findings_of(facts(records=[record], controls={"heldout": {"works": 0, "leak_rate": nothing}}))
        )
        suite = "attack dori (attack-0123456789ab)"
        control = next(name for place, name in cases if place == suite and name.startswith("control"))
        for key in (("controls", "held-out"), (suite, control), (suite, "w0")):
            assert cases[key].find("skipped") is not None, key

    def test_characters_that_xml_cannot_hold_do_not_break_it(self, found):
        _, cases = self.cases(found)
        assert any("<script>" in name and "\ufffd[31m" in name for _, name in cases)


class TestCycloneDX:
    def test_rates_come_with_their_intervals_and_bounds(self, found):
        card = json.loads(as_cyclonedx(found))["metadata"]["component"]["modelCard"]
        metrics = card["quantitativeAnalysis"]["performanceMetrics"]
        ours = next(m for m in metrics if m["slice"].startswith("ordinary, control: held-out"))
        assert ours["value"] == "0"
        assert ours["confidenceInterval"]["lowerBound"] == "0"
        bound = next(m for m in metrics if m["slice"] == ours["slice"] and "upper bound" in m["type"])
        assert float(bound["value"]) == pytest.approx(1 - 0.05**0.5, abs=1e-5)

    def test_what_was_not_measured_is_no_metric(self):
        none = plain(rate(0, 0))
        found = findings_of(facts({}, leak_rate=none, median_based_rate=none, controls={}))
        card = json.loads(as_cyclonedx(found))["metadata"]["component"]["modelCard"]
        assert card["quantitativeAnalysis"]["performanceMetrics"] == []

    def test_a_time_that_was_not_recorded_is_left_out(self, run, found):
        pytest.importorskip("cyclonedx")
        assert json.loads(as_cyclonedx(found))["metadata"]["timestamp"].startswith("2026-01-02")
        made = {k: v for k, v in run.provenance.items() if k != "utc"}
        untimed = replace(run, manifest=dict(run.manifest) | {"provenance": made})
        assert "timestamp" not in json.loads(as_cyclonedx(findings_of(untimed)))["metadata"]

    def test_the_same_findings_give_the_same_bytes(self, found):
        assert as_cyclonedx(found) == as_cyclonedx(found)

    def test_files_of_the_model_are_components(self, run):
        run.manifest["provenance"]["model"] = {"files": {"unet/x.safetensors": "d" * 64}, "commit": None}
        model = json.loads(as_cyclonedx(findings_of(run, AuditorFile(licence="Any licence"))))["metadata"]["component"]
        assert model["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
        assert model["licenses"][0]["license"]["name"] == "Any licence"

    def test_without_the_library_one_sentence_says_how_to_get_it(self, found, monkeypatch):
        monkeypatch.setitem(sys.modules, "cyclonedx.output.json", None)
        with pytest.raises(InputError, match=r"pip install 'amnestic\[bom\]'"):
            as_cyclonedx(found)


class TestTables:
    def test_rows_and_descriptions(self, run, found):
        tables = as_tables(found, run.matches, run.samples)
        assert {name: table.num_rows for name, table in tables.items()} == {"works": 3, "images": 10, "attacks": 4}
        works = tables["works"].to_pylist()
        assert [(w["work"], w["replicated"]) for w in works] == [("w0", True), (HOSTILE, True), ("w2", False)]
        for table in tables.values():
            assert all(field.metadata[b"description"] for field in table.schema)
            assert all(name in table.schema.metadata[b"README"].decode() for name in table.column_names)
            assert table.schema.metadata[b"findings.sha256"].decode() == digest_of(found)

    def test_controls_are_judged_by_the_nearest_original(self, run, found):
        run.matches[-1]["sscd_nearest"] = 0.8
        images = as_tables(found, run.matches, run.samples)["images"].to_pylist()
        assert [i["above"] for i in images if i["label"] == "heldout"] == [False, False, False, True]
        assert [i["above"] for i in images if i["label"] == "VM"] == [True, False, False, True, False, False]

    def test_without_an_attack_its_table_is_empty_and_typed(self):
        run = facts()
        table = as_tables(findings_of(run), run.matches, run.samples)["attacks"]
        assert (table.num_rows, str(table.schema.field("back").type)) == (0, "double")


class TestCard:
    def test_a_later_section_takes_the_place_of_an_earlier_one(self, found):
        first = with_section("---\nlicense: mit\n---\n# A model\n", card_section(found))
        second = with_section(first + "## More\n", card_section(found))
        assert second.count(BEGIN) == second.count(END) == 1
        assert second.startswith("---\nlicense: mit\n---\n# A model\n")
        assert second.endswith("## More\n")

    def test_no_text_of_a_run_can_end_the_section(self):
        run = facts(descriptor={"id": "d", "name": END, "preprocessing": "native", "digest": "0"})
        assert card_section(findings_of(run)).count(END) == 1

    def test_results_need_a_dataset_on_the_hub(self, found):
        assert isinstance(eval_results(found), Missing)

    def test_bounds_are_in_the_notes(self, run):
        (entry,) = yaml.safe_load(eval_results(findings_of(run, AuditorFile(reference_set="org/works"))))
        assert entry["dataset"] == {"id": "org/works", "task_id": "memorization-rate"}
        assert entry["value"] == pytest.approx(2 / 3, abs=1e-6)
        assert "2 of 3 works; 95 % interval 20.8 % to 93.9 %; one-sided 95 % upper bound" in entry["notes"]

    def test_a_rate_that_was_not_measured_is_no_result(self):
        found = findings_of(facts({}, leak_rate=plain(rate(0, 0))), AuditorFile(reference_set="org/works"))
        assert eval_results(found).state == "not measured"


class TestPublishing:
    @pytest.fixture
    def sent(self, monkeypatch):
        sent = {}

        def upload(**asked):
            folder = asked["folder_path"]
            sent.update(
                asked, files={str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
            )
            return SimpleNamespace(pr_url="https://hub/pr/1")

        monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
        monkeypatch.setattr(huggingface_hub.ModelCard, "load", staticmethod(lambda repo, **_: "# Theirs\n"))
        return sent

    def test_it_is_a_pull_request_with_the_card_alone(self, run, sent):
        found = findings_of(run, AuditorFile(reference_set="org/works", client="a secret client"))
        assert publish(found, "org/model") == "https://hub/pr/1"
        assert (sent["create_pr"], sent["repo_id"]) == (True, "org/model")
        assert set(sent["files"]) == {"README.md", ".eval_results/amnestic-memorization.yaml"}
        assert sent["files"]["README.md"].startswith("# Theirs\n")
        everything = "".join(sent["files"].values())
        for private in ("alert(1)", "w0 of old", "a secret client", "images/"):
            assert private not in everything

    def test_a_repository_without_a_card_gets_one(self, found, sent, monkeypatch):
        def none(repo, **_):
            raise EntryNotFoundError("no README.md")

        monkeypatch.setattr(huggingface_hub.ModelCard, "load", staticmethod(none))
        publish(found, "org/model")
        assert sent["files"]["README.md"].startswith("---\npipeline_tag: text-to-image\n---\n")

    def test_a_hub_that_refuses_is_one_sentence(self, found, sent, monkeypatch):
        def refuse(**_):
            raise OSError("no token\nand more")

        monkeypatch.setattr(huggingface_hub, "upload_folder", refuse)
        with pytest.raises(InputError, match=r"org/model took no pull request \(no token\); log in"):
            publish(found, "org/model")

    def test_a_card_that_cannot_be_asked_for_is_not_replaced(self, found, sent, monkeypatch):
        def offline(repo, **_):
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

        monkeypatch.setattr(huggingface_hub.ModelCard, "load", staticmethod(offline))
        with pytest.raises(InputError, match="took no pull request"):
            publish(found, "org/model")
        assert not sent

    @pytest.mark.parametrize("name", ["model", "a/b/c", "../x y", ""])
    def test_what_is_no_repository_is_refused(self, found, sent, name):
        with pytest.raises(InputError, match="ORG/NAME"):
            publish(found, name)
        assert not sent


@pytest.mark.skipif(find_spec("weasyprint") is None, reason="needs the extra pdf")
class TestPdfMade:
    def test_damaged_pictures_are_refused_as_before(self):
        as_pdf("<p>one</p>")
        assert not ImageFile.LOAD_TRUNCATED_IMAGES

    def test_a_page_becomes_a_pdf_and_nothing_is_fetched(self, tmp_path, caplog):
        (tmp_path / "x.png").write_bytes(b"secret")
        with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
            server.timeout, asked = 0, []
            server.process_request = lambda request, _: asked.append(request)
            page = (
                f'<p>one</p><img src="file://{tmp_path}/x.png"><img src="http://127.0.0.1:{server.server_port}/x.png">'
            )
            assert as_pdf(page).startswith(b"%PDF-")
            server.handle_request()
        assert not asked
        assert sum("disallowed protocol" in record.getMessage() for record in caplog.records) == 2


class TestPdf:
    def test_without_the_library_one_sentence_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "weasyprint", None)
        with pytest.raises(InputError, match=r"pip install 'amnestic\[pdf\]'"):
            as_pdf("<p>one</p>")

    def test_grids_become_blocks_on_paper(self):
        assert on_paper("<style>a{display:inline-grid}</style><style>b{display: grid}</style>").count("grid") == 0
