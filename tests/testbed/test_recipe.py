import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnestic.core.errors import InputError
from amnestic.measures.calibration import calibrate_threshold
from amnestic.testbed.pictures import POOL
from amnestic.testbed.recipe import LEAST_LOOKALIKES, Recipe, differences
from amnestic.testbed.recipe_file import read_recipe, recipe_from_mapping
from amnestic.testbed.training import Schedule


def refusal(content):
    with pytest.raises(InputError) as caught:
        recipe_from_mapping(content)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("expected ")
    return message


def test_a_file_changes_the_fields_it_names_and_no_other(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text("n_heldout: 32\nladder: [1, 2]\nexposures: [3, 40]\nbase: {steps: 1000, lr: 1e-4, fall: 1}\n")
    default = Recipe()
    wanted = replace(default.base, steps=1000, lr=1e-4, fall=1.0)
    assert read_recipe(file) == replace(default, n_heldout=32, ladder=(1, 2), exposures=(3, 40), base=wanted)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_is_the_default(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    assert read_recipe(tmp_path / "r.yaml") == Recipe()


@given(st.integers(16, 40), st.integers(1, 99), st.floats(1e-6, 0.1))
def test_what_a_manifest_says_can_be_read_back(n_pictures, steps, lr):
    recipe = Recipe(n_pictures=n_pictures, text=Schedule(steps=steps, batch=4, lr=lr))
    assert recipe_from_mapping(json.loads(json.dumps(recipe.as_dict()))) == recipe


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"n_helout": 3}, "got n_helout; did you mean n_heldout?"),
        ({"base": {"step": 3}}, "got base.step; did you mean steps?"),
        ({"zzz": 3}, "known are n_pictures, n_scenes"),
        ({3: 3}, "got 3"),
        ({"n_heldout": "many"}, "n_heldout to be a whole number, got 'many'; write for example n_heldout: 64"),
        ({"n_heldout": True}, "got True"),
        ({"n_heldout": 3.5}, "got 3.5"),
        ({"n_heldout": None}, "got None"),
        ({"ladder": 5}, "ladder to be a list of whole numbers, got 5; write for example ladder: [12, 12"),
        ({"ladder": ["a"]}, "ladder to be a whole number, got 'a'"),
        ({"base": 1000}, "base to be fields of a schedule, got 1000; write for example base: {steps: 1000}"),
        ({"base": {"lr": "fast"}}, "base.lr to be a number, got 'fast'"),
        ({"base": {"lr": [1]}}, "base.lr to be a number, got [1]"),
        ({"base": {"steps": 1e3}}, "base.steps to be a whole number, got 1000.0"),
    ],
)
def test_unknown_fields_and_wrong_types_are_refused(content, said):
    assert said in refusal(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"n_heldout": -1}, "n_heldout of at least 0, got -1"),
        ({"exposures": [12, 45, -130, 380, 1450]}, "every number of exposures of at least 0, got -130"),
        ({"ladder": [-12, 12, 12, 12, 64]}, "every number of ladder of at least 0, got -12"),
        ({"base": {"steps": 0}}, "base.steps of at least 1, got 0"),
        ({"sscd": {"batch": 1}}, "sscd.batch of at least 2, got 1"),
        ({"base": {"lr": -0.1}}, "base.lr from 1e-12 to 1, got -0.1"),
        ({"base": {"lr": float("nan")}}, "got nan"),
        ({"base": {"ema": 1.0}}, "base.ema"),
        ({"base": {"fall": 1.5}}, "base.fall from 0 to 1, got 1.5"),
        ({"n_pictures": len(POOL) + 1}, f"n_pictures from 16 to {len(POOL)}"),
        ({"n_pictures": 15}, "n_pictures from 16"),
        ({"n_pictures": 5, "n_templates": 0}, "n_pictures from 6"),
        ({"n_lookalikes": 141}, "n_lookalikes of at least 142"),
        ({"n_lookalikes": 10_000}, "at most 10000 works and look-alikes"),
        ({"channels": [32]}, "channels of 3 to 6 levels"),
        ({"channels": [32, 40, 64]}, "each a multiple of 16"),
        ({"ladder": [1, 2]}, "got 2 in ladder and 5 in exposures"),
        ({"ladder": [], "exposures": []}, "at least one"),
        ({"ladder": [4], "exposures": [15]}, "raise the last of exposures or set n_templates to 0"),
        (
            {"branch": {"steps": 100, "batch": 32}},
            "fit into the branch, got 3200 draws (100 steps of 32)",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(content, said):
    assert said in refusal(content)


def test_exposures_may_fill_the_branch_to_the_last_draw():
    content = {"ladder": [2, 5], "exposures": [3, 20], "n_templates": 1}  # 2 * 3 + (5 + 4) * 20 + 16
    assert recipe_from_mapping(content | {"branch": {"steps": 101, "batch": 2}}).fixed_exposures == 202
    assert "got 201 draws" in refusal(content | {"branch": {"steps": 201, "batch": 1}})


def test_the_fewest_lookalikes_are_what_the_threshold_needs():
    for n, enough in ((LEAST_LOOKALIKES, True), (LEAST_LOOKALIKES - 1, False)):
        null = [i / 1e5 for i in range(n * (n - 1) // 2)]
        if enough:
            calibrate_threshold(null, false_positive_rate=1e-4)
        else:
            with pytest.raises(InputError, match="needs at least"):
                calibrate_threshold(null, false_positive_rate=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "which is none"), ("- 1\n", "got [1]"), ("n_helout: 1\n", "did you mean n_heldout?"), ("\x00", "none")],
)
def test_files_that_hold_no_recipe_are_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_recipe(tmp_path / "r.yaml")
    assert said in str(caught.value)
    assert str(tmp_path / "r.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml"):
        read_recipe(tmp_path / "gone.yaml")


def test_differences_name_fields_and_what_is_missing():
    before, now = {"a": 1, "base": {"lr": 1, "old": 2}}, {"a": 1, "base": {"lr": 2}, "new": [3]}
    assert differences(before, now) == [
        "base.lr was 1, now 2", "base.old was 2, now missing", "new was missing, now [3]"
    ]  # fmt: skip
    assert differences(before, before) == []


def test_the_command_hands_the_recipe_to_the_build(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from amnestic.cli import app

    built = []
    monkeypatch.setattr("amnestic.testbed.export.export", lambda builder, out, **_: built.append((builder, out)))
    (tmp_path / "r.yaml").write_text("n_heldout: 7\n")
    command = ["testbed", "build", "--seed", "3", "--out", str(tmp_path / "bed"), "--recipe"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "r.yaml")]).exit_code == 0
    ((builder, out),) = built
    assert (builder.recipe, builder.seed, out) == (Recipe(n_heldout=7), 3, tmp_path / "bed")

    (tmp_path / "r.yaml").write_text("n_helout: 7\n")
    assert isinstance(CliRunner().invoke(app, [*command, str(tmp_path / "r.yaml")]).exception, InputError)
    assert len(built) == 1
