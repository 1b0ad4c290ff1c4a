"""Recipes: what is written, what is understood, and what is refused before anything runs."""

from pathlib import Path

import pytest
import yaml

from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder
from amnestic.core.records import Sampling
from amnestic.recipes.plan import Ref
from amnestic.recipes.reader import plan_of
from amnestic.recipes.recipe_file import open_recipe, read_recipe, recipe_from, shipped
from amnestic.recipes.steps import KINDS
from amnestic.recipes.written import as_data, written
from amnestic.sources.prompts import read_prompts
from amnestic.stages.choosing import ChooseRequest, choose

STORY = """
variables:
  model: MODEL
  out: results
  steps: 2
defaults: {device: cpu}
steps:
  - name: first
    does: audit
    model: ${model}
    prompts: prompts.csv
    references: references
    sampling: {num_inference_steps: "${steps}", guidance_scale: 2}
  - {name: units, does: locate, run: first, options: {r: 0.2}}
  - {name: cut, does: prune, run: first}
  - {name: again, does: audit, model: cut, before: first, prompts: prompts.csv, references: references}
"""


@pytest.fixture
def recipe(listed, tiny_pipeline, tmp_path):
    """Writes a recipe beside the prompt list and reads it."""

    def make(text=STORY, name="recipe.yaml", **given):
        file = tmp_path / name
        file.write_text(text.replace("MODEL", str(tiny_pipeline)))
        return plan_of(read_recipe(file), given)

    return make


def refused(make, match, *args, **given):
    with pytest.raises(InputError, match=match) as caught:
        make(*args, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestReading:
    def test_steps_know_each_other_and_their_places(self, recipe, tmp_path, tiny_pipeline):
        plan = recipe()
        first, units, cut, again = plan.steps
        assert first.out == tmp_path / "results" / "first"
        assert first.settings["prompts"] == tmp_path / "prompts.csv"
        assert first.settings["sampling"] == Sampling(num_inference_steps=2, guidance_scale=2.0)
        assert units.settings["run"] == cut.settings["run"] == Ref(step="first")
        assert cut.settings["located"] == Ref(step="units")
        assert (again.refs(), plan.origin(again)) == (("cut", "first"), str(tiny_pipeline))
        assert all(step.settings["device"] == "cpu" for step in plan.steps)

    def test_toml_says_the_same(self, recipe, tmp_path, tiny_pipeline):
        text = f"""
            variables = {{ model = "{tiny_pipeline}", out = "results", steps = 2 }}
            defaults = {{ device = "cpu" }}
            [[steps]]
            name = "first"
            does = "audit"
            model = "${{model}}"
            prompts = "prompts.csv"
            references = "references"
            sampling = {{ num_inference_steps = "${{steps}}", guidance_scale = 2 }}
            [[steps]]
            name = "units"
            does = "locate"
            run = "first"
            options = {{ r = 0.2 }}
            """
        assert recipe(text, "recipe.toml").steps == recipe().steps[:2]

    def test_variables_replace_those_of_the_recipe(self, recipe):
        assert recipe(steps=5).steps[0].settings["sampling"].num_inference_steps == 5

    def test_paths_on_the_command_line_count_from_the_working_directory(self, recipe, tmp_path, monkeypatch):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert recipe(out="here").out == tmp_path / "elsewhere" / "here"
        assert recipe().out == tmp_path / "results"

    def test_the_testbed_has_a_name(self, recipe):
        text = STORY.replace("model: MODEL", "model: ${testbed}/pipeline")
        assert recipe(text).steps[0].settings["model"] == str(bundled_folder() / "pipeline")

    def test_a_variable_alone_keeps_its_type_and_dollars_can_be_written(self, recipe):
        text = STORY.replace("steps: 2", "steps: 2\n  few: {rung: 1, limit: 2}").replace(
            "run: first, options", "run: first, selection: '${few}', options"
        )
        assert recipe(text).step("units").settings["selection"].limit == 2
        spelled = recipe_from(
            {"variables": {"out": "r", "a": "$${x}"}, "steps": [{"name": "s", "does": "gate", "run": ".", "fail_on": [
                "leak_rate.upper_one_sided > 5%"], "junit": "."}]}, name="r", base=Path.cwd())  # fmt: skip
        assert plan_of(spelled).steps[0].settings["fail_on"] == ("leak_rate.upper_one_sided > 5%",)

    def test_units_are_found_where_only_one_step_located_some(self, recipe):
        twice = STORY.replace("  - {name: cut", "  - {name: more, does: locate, run: first}\n  - {name: cut")
        refused(recipe, r"steps units, more located units in first; say which: located", twice)


class TestWrittenOut:
    def test_what_is_printed_asks_for_the_same(self, recipe, tmp_path):
        plan = recipe()
        (tmp_path / "far").mkdir()
        file = tmp_path / "far" / "resolved.yaml"
        file.write_text(written(plan))
        again = plan_of(read_recipe(file))
        assert again.out == plan.out
        assert written(again) == written(plan)
        assert [s.request(str) for s in again.steps[:1]] == [s.request(str) for s in plan.steps[:1]]
        assert [s.refs() for s in again.steps] == [s.refs() for s in plan.steps]

    def test_settings_of_methods_are_written_out(self, recipe):
        data = as_data(recipe())
        assert data["steps"][1]["options"]["r"] == 0.2
        assert data["steps"][1]["options"]["tau"] == 10
        assert data["steps"][0]["sampling"] == {
            "scheduler": "DDIMScheduler", "num_inference_steps": 2, "guidance_scale": 2.0,
        }  # fmt: skip

    def test_the_testbed_stays_a_name_and_dollars_survive(self, recipe, tmp_path):
        text = STORY.replace("model: MODEL", "model: ${testbed}/pipeline").replace("out: results", "out: 'r$${x}'")
        plan = recipe(text)
        assert plan.out == tmp_path / "r${x}"
        assert "model: ${testbed}/pipeline" in written(plan)
        assert str(bundled_folder()) not in written(plan)
        assert plan_of(recipe_from(yaml.safe_load(written(plan)), name="again", base=Path.cwd())).out == plan.out


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("options: {r", "optoins: {r", r"line 14, step 2 \(units\), optoins: locate has no 'optoins'; did you mean"),
        ("steps:\n  - name", "setps:\n  - name", r"line 7, setps: a recipe has no 'setps'; did you mean steps\?"),
        ("guidance_scale", "guidence_scale", r"line 13, step 1 \(first\), sampling, guidence_scale: .*ance_scale\?"),
        ("{r: 0.2}", "{rr: 0.2}", r"step 2 \(units\): wanda-subspace has no setting rr.*did you mean r\?"),
        ("{r: 0.2}", "{r: 2}", r"r must lie in \(0, 1\]"),
        ("does: locate", "does: lokate", r"got 'lokate'; did you mean locate\?"),
        ("does: locate, run: first", "does: locate, method: nimo, run: first", r"did you mean nemo\?"),
        ("does: locate, run: first", "does: locate", r"step 2 \(units\), run: Field required"),
        ("does: locate, run: first", "does: locate, run: frist", r"neither an earlier step that gives audit \(first\) "
         r"nor a path that exists; did you mean first\?"),
        ("does: locate, run: first", "does: locate, run: again", "again is a later step; move that one before it"),
        ("does: locate, run: first", "does: locate, run: units", "units is itself"),
        ("does: prune, run: first", "does: prune, run: units", r"a step that gives audit \(first\), units does locate"),
        ("model: cut", "model: cot", r"cot is no earlier step that gives model; did you mean cut\?"),
        ("name: cut", "name: first", "first is the name of an earlier step"),
        ("name: cut", "name: ../cut", "expected a name of letters, digits, dashes"),
        ("name: cut", "out: results/first, name: cut", "is the place of step first too"),
        ("prompts: prompts.csv\n", "prompts: prompt.csv\n", 
         r"line 11, step 1 \(first\), prompts: prompt.csv is neither .* nor a path that exists"),
        ("references: references\n", "references: 3\n", r"references: Input is not a valid path.*, got 3"),
        ("sampling: {", "n_seeds: yes\n    sampling: {", r"n_seeds is neither true nor false"),
        ("sampling: {", "n_seeds: [1]\n    sampling: {", r"n_seeds: Input should be a valid integer, got \[1\]"),
        ("sampling: {", "n_seeds: 0\n    sampling: {", "expected at least 1 seed, got 0"),
        ("guidance_scale: 2", "guidance_scale: .nan", "guidance_scale: .*finite number"),
        ("sampling: {", "max_leak_rate: 5\n    sampling: {", "expected a share between 0 and 1; 5 % is 0.05"),
        ("sampling: {", "bundled: x\n    sampling: {", "audit has no 'bundled'"),
        ("device: cpu", "devise: cpu", r"defaults, devise: .*did you mean device\?"),
        ("${steps}", "${stpes}", r"no variable is called 'stpes'; did you mean steps\?"),
        ("steps: 2", "steps: ${steps}", "steps needs steps; give one of them a value"),
        ("steps: 2", "steps: ???", "needs a value for steps; give it with --set steps="),
        ("out: results", "place: results", "expected a variable out"),
        ("out: results", "out: results\n  Testbed: x", "expected a variable of small letters"),
        ("does: prune", "if_nothing_found: maybe, does: prune", "expected stop or go-on"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_place(recipe, old, new, sentence):
    assert old in STORY
    text = STORY.replace(old, new, 1)
    assert "recipe.yaml" in refused(recipe, sentence, text)


def test_units_of_another_audit_are_refused(recipe):
    other = STORY.replace("  - {name: cut, does: prune, run: first}", """
  - {name: other, does: audit, model: MODEL, prompts: prompts.csv, references: references}
  - {name: cut, does: prune, run: other, located: units}""")  # fmt: skip
    refused(recipe, "units located units in first, this step prunes what other audited", other)


def test_surrogates_and_originals_are_asked_for_before_anything_runs(recipe):
    refused(recipe, "name it in surrogates_from",
            STORY + "  - {name: l, does: finetune, run: first, references: references}\n")  # fmt: skip
    refused(recipe, "give their folder as references",
            STORY + "  - {name: l, does: locate, run: first, method: gradient-attribution}\n")  # fmt: skip
    refused(recipe, r"gate.*leak_rat",
            STORY + "  - {name: gate, does: gate, run: first, fail_on: ['> leak_rat 5%']}\n")  # fmt: skip


def test_a_variable_that_the_recipe_lacks_is_refused(recipe):
    refused(recipe, r"--set modle: recipe recipe has no 'modle'; did you mean model\?", modle="x")


BOMB = "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nsteps: [*c, *c]\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "line 1: recipes have no anchors and aliases"),
        ("steps: !!python/object/apply:os.system ['touch hacked']", "recipes have no tags, got 'tag:yaml.org"),
        ("steps: !include /etc/passwd", "recipes have no tags"),
        ("<<: {a: 1}\nsteps: []", "expected a name before the colon"),
        ("? [a]\n: 1", "expected a name before the colon"),
        ("steps: []\nsteps: []", "line 2: 'steps' stands there twice"),
        ("[" * 5000, "at most 20 levels"),
        ("a: " * 50, "is no YAML"),
        ("steps: [\n", "is no YAML"),
        ("- 1\n", r"expected a recipe with steps, got \[1\]"),
        ("", "expected a recipe with steps, got None"),
        ("3", "expected a recipe with steps, got 3"),
        ("steps: yes", "steps: Input should be a valid list, got True"),
        ("steps: []", "at least 1 item"),
        ("steps: [3]", r"step 1: Input should be a valid dictionary"),
        ("steps: [{name: a}]\nvariables: {out: x}", "expected a step to do one of"),
        ("steps: [{name: a, does: [audit]}]\nvariables: {out: x}", "expected a step to do one of"),
        ("variables: {out: [x]}\nsteps: [{name: a, does: audit}]", "expected a variable out"),
        ("variables: {out: x, y: [1]}\nsteps: [{name: 'a${y}', does: audit}]", "y is no text or number"),
        ("variables: {out: x}\nsteps: [{name: 7, does: audit}]", "expected a name of letters"),
        ("\0", "is no YAML"),
    ],
)  # fmt: skip
def test_hostile_yaml_ends_in_one_sentence(recipe, text, sentence, tmp_path):
    told = refused(recipe, sentence, text)
    assert len(told) < 500
    assert not (tmp_path / "hacked").exists()


def test_files_that_are_no_recipe(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.yaml").write_bytes(b"a" * 1_000_001)
    (tmp_path / "bad.toml").write_text("a = = 1")
    for name, sentence in (("bytes.yaml", "not .byte 0"), ("large.yaml", "1,000,001 bytes"), ("bad.toml", "no TOML")):
        refused(lambda name=name: read_recipe(tmp_path / name), sentence)
    refused(lambda: open_recipe(str(tmp_path)), "which is neither")
    refused(lambda: open_recipe("replication-adit"), r"did you mean replication-audit\?")


GIVEN = {"model": "${testbed}/pipeline", "prompts": "${testbed}/prompts.csv", "references": "${testbed}"}


class TestShipped:
    def test_there_are_four(self):
        assert set(shipped()) == {"deletion-requests", "dori-table", "replication-audit", "unlearning-story"}

    @pytest.mark.parametrize("name", sorted(shipped()))
    def test_every_one_can_be_planned_for_the_testbed(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        more = {"requests": [{"works": ["vm-4-003"]}, {"part": [1, 3]}]} if name == "deletion-requests" else {}
        plan = plan_of(open_recipe(name), GIVEN | more)
        assert plan.about
        assert plan.out == tmp_path / "runs" / name
        assert plan_of(recipe_from(yaml.safe_load(written(plan)), name="x", base=tmp_path)).out == plan.out
        assert list(tmp_path.iterdir()) == []

    def test_what_must_be_given_is_asked_for(self):
        with pytest.raises(
            InputError, match=r"needs a value for model, prompts, references; give it with --set model="
        ):
            plan_of(open_recipe("replication-audit"))

    def test_requests_are_written_out_step_by_step(self):
        requests = [{"works": ["vm-4-003"]}, {"works": ["vm-4-005"]}, {"works": ["vm-4-006"]}]
        plan = plan_of(open_recipe("deletion-requests"), GIVEN | {"requests": requests, "roll_back": 2})
        names = [step.name for step in plan.steps]
        assert names[:5] == ["request-1", "asked-1", "located-1", "deleted-1", "after-1-request-1"]
        assert [n for n in names if n.startswith("after-3")] == [f"after-3-request-{j}" for j in (1, 2, 3)]
        assert plan.step("asked-3").settings["model"] == Ref(step="deleted-2")
        assert plan.step("after-2-request-1").settings["model"] == Ref(step="deleted-2")
        assert plan.step("rolled-back").settings["take_back"] == Ref(step="deleted-2")
        assert plan.step("rolled-back").settings["runs"] == tuple(Ref(step=f"asked-{i}") for i in (1, 2, 3))
        assert names[-3:] == [f"rolled-back-request-{j}" for j in (1, 2, 3)]
        assert plan.descriptor(plan.step("rolled-back-request-3")) == bundled_folder() / "descriptors" / "sscd-mini"

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"requests": []}, "requests: List should have at least 1 item"),
            ({"requests": [{"works": ["vm-4-003"]}], "roll_back": 2}, "expected one of 1 requests, got 2"),
            ({"requests": [{"work": ["vm-4-003"]}]}, r"choose has no 'work'; did you mean works\?"),
            ({"requests": "vm-4-003"}, "requests: Input should be a valid list"),
        ],
    )
    def test_requests_that_cannot_be_meant_are_refused(self, given, sentence):
        refused(lambda: plan_of(open_recipe("deletion-requests"), GIVEN | given), sentence)


def test_every_kind_takes_only_settings_that_it_has():
    for kind in KINDS.values():
        assert {*kind.takes, *kind.models} <= set(kind.settings()), kind.name
        assert not set(kind.left_out) & set(kind.settings())


class TestChoosing:
    def test_works_by_name_with_controls(self, listed, tmp_path):
        prompts, _ = listed
        asked = ChooseRequest(prompts=prompts, out=tmp_path / "few.csv", works=("w0.png", "w3.png"), n_controls=1)
        rows = choose(asked)
        assert [p.id for p in rows] == ["w0", "w3", "b0"]
        assert read_prompts(asked.out) == rows  # hostile text and all

    def test_by_rung_part_and_limit(self, listed, tmp_path):
        prompts, _ = listed

        def ids(**how):
            rows = choose(ChooseRequest(prompts=prompts, out=tmp_path / "few.csv", n_controls=0, **how))
            return [p.id for p in rows]

        assert ids() == ["w0", "w1", "w2", "w3"]
        assert ids(rung=1) == ["w1", "w3"]
        assert ids(limit=1) == ["w0"]
        assert sorted(ids(part=(1, 2)) + ids(part=(2, 2))) == ["w0", "w1", "w2", "w3"]

    def test_works_that_there_are_not(self, listed, tmp_path):
        refused(lambda: choose(ChooseRequest(prompts=listed[0], out=tmp_path / "x.csv", works=("w0.pgn",))),
                r"got w0.pgn; did you mean w0.png\?")  # fmt: skip
        refused(lambda: choose(ChooseRequest(prompts=listed[0], out=tmp_path / "x.csv", rung=7)), "no work of")
