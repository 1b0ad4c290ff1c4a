"""``amnestic report`` on a run of the tiny model, as a person types it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from pyarrow import parquet

from amnestic import stages
from amnestic.core.errors import InputError, StoreError
from amnestic.core.seal import check
from amnestic.report.findings import Findings, read_findings
from amnestic.stages.reporting import FORMATS


def amnestic(*args):
    return subprocess.run(
        [sys.executable, "-m", "amnestic", *map(str, args)], capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def run(request_of):
    stages.audit(replace(request_of, threshold=-1.0, max_leak_rate=0.5))
    return request_of.out


def report(run, *formats, **asked):
    return stages.report(stages.ReportRequest(run=run, formats=formats or ("json",), **asked))


def test_documents_appear_inside_the_run_and_are_sealed_with_it(run, tmp_path):
    (tmp_path / "auditor.yaml").write_text("name: A. Person\n")
    done = amnestic("report", run, "--auditor", tmp_path / "auditor.yaml")
    assert done.returncode == 0, done.stderr
    assert "4 of 4 tested works were replicated." in done.stdout
    assert "No attack was run" in done.stdout
    found = read_findings((run / "report" / "findings.json").read_text("utf-8"))
    assert found.auditor.name == "A. Person"
    assert found.decision.verdict == "fail"
    assert (run / "report" / "findings.html").read_text("utf-8").startswith("<!doctype html>")
    assert "# Memorization audit" in (run / "report" / "findings.md").read_text("utf-8")
    assert not check(run).differences


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    every = [name for name in FORMATS if name not in ("pdf", "html")]
    first = report(run, *every, out=tmp_path / "one")
    report(run, *every)  # exports inside the run are no part of what a later report reads
    second = report(run, *every, out=tmp_path / "two")
    assert len(first.files) == len(second.files) == 8
    for one, two in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_every_form_holds_the_run(run, tmp_path):
    made = report(run, "parquet", "junit", "cyclonedx", "card", out=tmp_path / "out")
    assert parquet.read_table(tmp_path / "out" / "works.parquet").num_rows == 4
    assert parquet.read_table(tmp_path / "out" / "images.parquet").num_rows == 12
    cases = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    assert int(cases.find("testsuite").get("failures")) == 4
    model = json.loads((tmp_path / "out" / "bom.cdx.json").read_text("utf-8"))["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert "4 of 4 tested works" in (tmp_path / "out" / "card.md").read_text("utf-8")
    assert [row.what for row in made.left_out] == [".eval_results/amnestic-memorization.yaml"]
    assert made.pull_request is None


def test_hostile_prompts_stay_text(run):
    report(run, "json", "md")
    found = read_findings((run / "report" / "findings.json").read_text("utf-8"))
    assert any("<script>" in pair.prompt for pair in found.evidence.pairs)
    assert "<script>" not in (run / "report" / "findings.md").read_text("utf-8").replace("\\<", "")


def test_all_leaves_out_what_is_not_installed_and_a_name_refuses_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    made = report(run, "all", out=tmp_path / "out")
    assert any(row.what == "pdf" and "amnestic[pdf]" in row.why for row in made.left_out)
    assert (tmp_path / "out" / "findings.json").is_file()
    with pytest.raises(InputError, match=r"amnestic\[pdf\]"):
        report(run, "json", "pdf", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


class TestMistakes:
    def test_an_unfinished_run(self, run):
        (run / "summary.json").unlink()
        with pytest.raises(StoreError, match="has not finished"):
            report(run)

    def test_a_folder_without_a_run(self, tmp_path):
        done = amnestic("report", tmp_path)
        assert done.returncode == 2
        assert "holds no run" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

    def test_a_run_of_an_older_schema(self, run):
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(manifest | {"schema": 0}))
        with pytest.raises(StoreError, match="schema 0, this version reads"):
            report(run)

    @pytest.mark.parametrize("name", ["summary.json", "matches.parquet", "references.json", "manifest.json"])
    def test_a_changed_byte(self, run, name):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content.replace(b"\n", b" ", 1) if name.endswith("json") else content + b"\0")
        with pytest.raises(StoreError, match=f"{name} is not as it was sealed"):
            report(run)
        assert not (run / "report").exists()

    def test_numbers_that_do_not_belong_together(self, run):
        (run / "SHA256SUMS").unlink()
        summary = json.loads((run / "summary.json").read_text())
        summary["works"]["replicated"] = 0
        (run / "summary.json").write_text(json.dumps(summary))
        with pytest.raises(StoreError, match=r"counts 4 of 4 works as replicated, summary.json 0 of 4"):
            report(run)

    @pytest.mark.parametrize(
        ("formats", "asked", "told"),
        [
            (("jsn",), {}, "unknown format 'jsn': .* did you mean json"),
            (("json",), {"push_to": "model"}, "expected a repository as ORG/NAME"),
        ],
    )
    def test_options_that_cannot_be_meant(self, run, formats, asked, told):
        with pytest.raises(InputError, match=told):
            report(run, *formats, **asked)

    def test_a_place_that_a_report_must_not_overwrite(self, run, tmp_path):
        with pytest.raises(InputError, match="is the run itself"):
            report(run, out=run)
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is a file"):
            report(run, out=tmp_path / "file")

    def test_a_run_without_a_seal_is_read_all_the_same(self, run, tmp_path):
        shutil.copytree(run, tmp_path / "older")
        (tmp_path / "older" / "SHA256SUMS").unlink()
        assert isinstance(report(tmp_path / "older").findings, Findings)
        assert not (tmp_path / "older" / "SHA256SUMS").exists()
