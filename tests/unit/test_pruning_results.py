"""What the script behind `docs/results/pruning.json` audits and asks, without computing any of it."""

import csv
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest

from amnestic.core.records import MethodSpec
from amnestic.core.store import Record
from amnestic.testbed.bundled import bundled

SCRIPT = Path(__file__).parents[2] / "scripts" / "pruning_results.py"
SHARING = ("layers", "matrix", "whole_test", "share_memorized", "share_controls", "control_kinds", "convention",
           "notes", "transfer", "growth", "rungs")  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("pruning_results", SCRIPT)
    module = module_from_spec(spec)
    sys.modules["pruning_results"] = module  # where its dataclasses look for their own names
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pruning_results"]


@pytest.fixture
def study(script, tmp_path):
    return script.Study(bundled(), tmp_path / "study", full=True)


@pytest.fixture
def asked(script, monkeypatch):
    """What the stages are asked for; they answer at once."""
    audits, analyses = [], []

    def analyze(request):
        analyses.append(request)
        data = {key: f"{key} with {request.locate.selection.controls}" for key in SHARING}
        made_by = MethodSpec(name="wanda-subspace", parameters={})
        return Record(stage="sharing", made_by=made_by, parents=(), data=data, tensors={})

    monkeypatch.setattr(script.stages, "audit", audits.append)
    monkeypatch.setattr(script.stages, "analyze", analyze)
    return SimpleNamespace(audits=audits, analyses=analyses)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ids(rows):
    return [row["id"] for row in rows]


def first_prompts(rows):
    """The first prompt of every work."""
    return list({row["work"]: row for row in reversed(rows)}.values())[::-1]


def test_edits_are_located_with_and_judged_on_the_top_rung_alone(study):
    rows, listed = study.testbed.rows(), rows_of(study.request.prompts)
    top = first_prompts([row for row in rows if (row["label"], row["rung"]) == ("VM", str(study.top))])
    assert len(top) == 64
    assert ids(listed) == ids(top) + ids([row for row in rows if row["label"] == "base"])[:40]


def test_the_attack_has_a_part_of_them(study):
    listed = rows_of(study._list("extraction", n_works=3, n_base=2))
    assert ids(listed) == ids(rows_of(study.request.prompts))[:3] + ["base-000", "base-001"]


class TestSharing:
    def listed(self, study, asked):
        study.subspace(0.1)
        (request,) = asked.audits
        return rows_of(request.prompts)

    def test_all_works_of_the_top_rung_come_first_and_are_those_of_the_edits(self, study, asked):
        listed = self.listed(study, asked)
        assert ids(listed)[:64] == ids(rows_of(study.request.prompts))[:64]

    def test_every_lower_rung_has_works_enough_and_each_only_once(self, study, asked):
        listed = self.listed(study, asked)
        for rung in range(study.top):
            works = [row["work"] for row in listed if (row["label"], row["rung"]) == ("VM", str(rung))]
            assert len(works) == len(set(works)) == 10
        assert len(set(ids(listed))) == len(listed) == 64 + study.top * 10 + 60 + 60

    def test_there_are_controls_of_both_kinds_for_all_sets(self, study, asked):
        listed = self.listed(study, asked)
        (analysis,) = asked.analyses
        least = analysis.n_sets * analysis.size
        assert sum(row["label"] == "base" for row in listed) >= least
        assert len({row["work"] for row in listed if row["label"] == "heldout"}) >= least

    def test_both_kinds_of_controls_stand_beside_each_other(self, study, asked, monkeypatch):
        monkeypatch.setattr(study, "extraction", lambda trial: trial.name)
        results = {
            "smallest_r_within_bounds": {"empty": None},
            "methods": {"wanda-subspace r=0.1": {}, "nemo down+mid": {}},
        }
        study.look_closer(results, lambda: None)
        told = {(request.locate.options["r"], request.locate.selection.controls) for request in asked.analyses}
        assert told == {(r, controls) for r in (0.01, 0.1) for controls in ("base", "heldout")}
        assert {request.locate.run for request in asked.analyses} == {study.folder / "sharing"}
        assert {request.locate.selection.rung for request in asked.analyses} == {study.top}
        assert results["subspace"].keys() == results["subspace_heldout"].keys() == {"published r", "r = 0.1"}
        for name, controls in (("subspace", "base"), ("subspace_heldout", "heldout")):
            assert [found["layers"] for found in results[name].values()] == [f"layers with {controls}"] * 2
        assert results["subspace"]["r = 0.1"].keys() == {"r", *SHARING}
        assert results["subspace_heldout"]["r = 0.1"].keys() == {"r", *SHARING} - {"transfer", "growth", "rungs"}

    def test_images_are_drawn_under_masks_once(self, study, asked, monkeypatch):
        monkeypatch.setattr(study, "extraction", lambda trial: trial.name)
        results = {
            "smallest_r_within_bounds": {"empty": None},
            "methods": {"wanda-subspace r=0.1": {}, "nemo down+mid": {}},
        }
        study.look_closer(results, lambda: None)
        drawn = [(r.locate.options["r"], r.locate.selection.controls) for r in asked.analyses if r.transfer_seeds]
        assert drawn == [(0.1, "base")]
