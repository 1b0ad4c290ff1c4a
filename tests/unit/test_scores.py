"""Which scores of a run count: those of its summary, however old the files are."""

import os
import shutil

import pytest
from runs import attack, finished_run, prompts_of

from amnestic.core.errors import StoreError
from amnestic.core.records import Descriptor, Prompt
from amnestic.core.store import Run
from amnestic.stages.comparing import compare
from amnestic.stages.facts import facts_of
from amnestic.stages.scores import described, scored, threshold_of

OTHER = Descriptor(name="another", preprocessing="native", digest="e" * 64)


def ages(run, newest):
    """Make one record the newest by the times of its files, as a copy may."""
    for name in run.records("score") + run.records("embed"):
        time = 2_000_000_000 if name == newest else 1_000_000_000
        os.utime(run.folder / "records" / name / "record.json", (time, time))


@pytest.mark.parametrize("again", [{"threshold": 0.5}, {"descriptor": OTHER}, {"hashes": {"w0.png": "f" * 64}}])
def test_a_run_that_was_scored_again_and_copied_keeps_its_scores(tmp_path, again):
    first = scored(finished_run(tmp_path / "run", [0.9, 0.6, 0.2]))
    run = finished_run(tmp_path / "run", [0.9, 0.6, 0.2], **again)
    second = next(name for name in run.records("score") if name != first.id)
    for newest in (first.id, second):
        ages(run, newest)
        assert scored(run).id == second
        assert threshold_of(run) == again.get("threshold", 0.7)
        described(run)
    finished_run(tmp_path / "run", [0.9, 0.6, 0.2])  # and back: the first record is the one that counts
    for newest in (first.id, second):
        ages(run, newest)
        assert scored(run).id == first.id


def test_a_table_of_another_scoring_is_refused(tmp_path):
    run = finished_run(tmp_path / "run", [0.9, 0.6])
    finished_run(tmp_path / "other", [0.9, 0.3])
    shutil.copy(tmp_path / "other" / "matches.parquet", run.folder)
    with pytest.raises(StoreError, match="not of one scoring"):
        scored(run)


def test_without_a_summary_nothing_counts(tmp_path):
    run = finished_run(tmp_path / "run", [0.9])
    (run.folder / "summary.json").unlink()
    with pytest.raises(StoreError, match="has not finished"):
        scored(Run.open(run.folder))


def test_the_order_of_attacks_in_a_report_outlives_a_copy(tmp_path):
    run = finished_run(tmp_path / "run", [0.9, 0.6])
    made = [attack(run, name, works=[0.9, 0.2]).id for name in ("dori", "random-embeddings", "auto-dori")]
    order = sorted(made, reverse=True)
    for name in order:
        run.event("attacked", record=name)
    for ages_of in (order, order[::-1]):
        for age, name in enumerate(ages_of):
            os.utime(run.folder / "records" / name / "record.json", (10**9 + age, 10**9 + age))
        assert [record.id for record in facts_of(run.folder).records_of("attack")] == order


def test_works_without_an_original_in_either_audit_are_named_as_not_compared(tmp_path):
    prompts = [*prompts_of(2), Prompt(id="x", prompt="no original", label="VM", work="x")]
    for name in "ab":
        finished_run(tmp_path / name, [0.9, 0.2], model=name, prompts=prompts)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found["groups"][0]["works"] == 2
    assert ["1 prompt", "they have no original that could be used in either audit"] in found["not_compared"]
