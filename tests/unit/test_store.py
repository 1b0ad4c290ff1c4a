"""The run folder: what it refuses, and how it says so."""

import math

import pytest

from amnestic.core.errors import StoreError
from amnestic.core.records import MethodSpec
from amnestic.core.store import Record, Run, record_id, write_json

LONG = "/a/folder/whose/name/is/so/long/that/only/its/start/is/ever/shown/"


def settings(**model):
    known = {"name": LONG + "one", "dtype": "float16", "digest": "d1"}
    return {"stage": "audit", "model": known | model, "sampling": {"scheduler": "X", "height": None}}


def test_a_refusal_names_the_nested_setting_that_differs(tmp_path):
    Run.start(tmp_path / "run", settings())
    with pytest.raises(StoreError, match=r"settings \(model\.dtype was \"float16\", now \"float32\"\); give another"):
        Run.start(tmp_path / "run", settings(dtype="float32"))
    with pytest.raises(StoreError, match=r"\(sampling\.height was null, now 64\)"):
        Run.start(tmp_path / "run", settings() | {"sampling": {"scheduler": "X", "height": 64}})


def test_the_same_weights_under_another_name_are_the_same_model(tmp_path):
    before = Run.start(tmp_path / "run", settings()).manifest()
    assert Run.start(tmp_path / "run", settings(name=LONG + "two")).manifest() == before
    with pytest.raises(StoreError, match=r"model\.digest was \"d1\", now \"d2\""):
        Run.start(tmp_path / "run", settings(name=LONG + "two", digest="d2"))


def test_without_digests_names_decide(tmp_path):
    Run.start(tmp_path / "run", settings(digest=""))
    with pytest.raises(StoreError, match=r"model\.name was"):
        Run.start(tmp_path / "run", settings(digest="", name="other"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_does_not_know_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"deep": [value]})
    assert not list(tmp_path.iterdir())


def test_records_of_a_stage_are_not_those_of_one_that_begins_alike(tmp_path):
    run = Run.start(tmp_path / "run", settings())
    for stage in ("attack", "attack-arm", "attack-part"):
        run.save(Record(stage=stage, made_by=MethodSpec(name="dori"), parents=("a",), data={}, tensors={}))
    (run.folder / "records" / "attack-notes").mkdir()
    (run.folder / "records" / "attack-notes" / "record.json").write_text("{}")
    for stage in ("attack", "attack-arm", "attack-part"):
        assert run.records(stage) == [record_id(stage, MethodSpec(name="dori"), ("a",))]
    with pytest.raises(StoreError, match=r"finished ones: attack-arm-[0-9a-f]{12}$"):
        run.record("attack-arm-000000000000")
