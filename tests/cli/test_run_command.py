"""Recipes that run: continued after a kill, printed and run again, counted before and while they run."""

import csv
import json
import subprocess
import sys
from collections import Counter
from copy import deepcopy

import pytest
import torch
import yaml
from safetensors.torch import load_file

from amnestic.audit.localizers.nemo import Nemo
from amnestic.cli import main
from amnestic.core.errors import InputError, StoreError
from amnestic.core.registry import build
from amnestic.core.store import Run
from amnestic.model.target import PipelineTarget
from amnestic.recipes.cost import costs_of
from amnestic.recipes.of_run import recipe_of
from amnestic.recipes.reader import plan_of
from amnestic.recipes.recipe_file import open_recipe, read_recipe, recipe_from
from amnestic.recipes.runner import run_recipe
from amnestic.recipes.steps import KINDS
from amnestic.recipes.written import written

AUDIT = {"prompts": "prompts.csv", "references": "references", "n_seeds": 2, "threshold": -1.0,
         "descriptor": "sscd-mini", "sampling": {"num_inference_steps": 2, "guidance_scale": 2.0}}  # fmt: skip


@pytest.fixture
def recipe(listed, tiny_pipeline, tiny_sscd, tmp_path):
    """A plan of steps on the tiny model."""

    def make(*steps, out="results"):
        for step in steps:
            if step["does"] == "audit":
                step.update({k: deepcopy(v) for k, v in AUDIT.items() if k not in step})
                step.setdefault("model", str(tiny_pipeline))
        content = {
            "variables": {"out": out}, "defaults": {"device": "cpu", "sscd_weights": str(tiny_sscd)},
            "steps": list(steps),
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return plan_of(read_recipe(tmp_path / "recipe.yaml"))

    return make


def story():
    return [
        {"name": "first", "does": "audit"},
        {"name": "units", "does": "locate", "run": "first", "options": {"r": 0.2, "tau": 2}},
        {"name": "cut", "does": "prune", "run": "first"},
    ]


class Calls(Counter):
    """How often each stage is called; one of them may be killed."""

    def watch(self, monkeypatch, kill=None):
        run = type(KINDS["audit"]).run

        def watched(kind, request, progress):
            self[kind.name] += 1
            if kind.name == kill:
                raise KeyboardInterrupt
            return run(kind, request, progress)

        monkeypatch.setattr(type(KINDS["audit"]), "run", watched)


def test_a_recipe_that_was_killed_goes_on_where_it_stopped(recipe, tmp_path, monkeypatch):
    plan, calls, told = recipe(*story()), Calls(), []
    with monkeypatch.context() as patched:
        calls.watch(patched, kill="prune")
        with pytest.raises(KeyboardInterrupt):
            run_recipe(plan)
    assert calls == {"audit": 1, "locate": 1, "prune": 1}
    assert not (tmp_path / "results" / "cut").exists()
    calls.clear()
    calls.watch(monkeypatch)
    outcomes = run_recipe(plan, tell=told.append)
    assert calls == {"prune": 1}
    assert [o.skipped for o in outcomes] == ["finished before", "finished before", ""]
    rate = "leak rate 100 % of 4 works, 95 % interval 51 % to 100 %"
    assert told[0] == f"step 1 of 3, first: finished before ({rate})"
    assert (tmp_path / "results" / "cut" / "model_index.json").is_file()
    calls.clear()
    run_recipe(plan)
    assert calls == {}


def test_the_printed_recipe_gives_the_same_records_elsewhere(recipe, tmp_path):
    plan = recipe(*story())
    run_recipe(plan)
    (tmp_path / "far").mkdir()
    content = written(plan).replace(str(tmp_path / "results"), str(tmp_path / "again"))
    (tmp_path / "far" / "resolved.yaml").write_text(content)
    run_recipe(plan_of(read_recipe(tmp_path / "far" / "resolved.yaml")))
    one, other = (sorted(p.name for p in (tmp_path / place / "first" / "records").iterdir())
                  for place in ("results", "again"))  # fmt: skip
    assert one == other
    before, after = (load_file(tmp_path / place / "cut" / "unet" / "diffusion_pytorch_model.safetensors")
                     for place in ("results", "again"))  # fmt: skip
    assert all(torch.equal(before[k], after[k]) for k in before)


class TestWhatHasFinished:
    @pytest.fixture
    def calls(self, monkeypatch):
        found = Calls()
        found.watch(monkeypatch)
        return found

    def test_another_setting_runs_the_step_and_those_after_it(self, recipe, calls):
        steps = story()
        run_recipe(recipe(*steps))
        calls.clear()
        steps[1]["options"]["r"] = 0.1
        run_recipe(recipe(*steps[:2]))
        assert calls == {"locate": 1}
        calls.clear()
        with pytest.raises(StoreError, match="is not empty"):  # the model of the other units lies there
            run_recipe(recipe(*steps))
        assert calls == {"prune": 1}

    def test_a_list_that_changed_is_noticed(self, recipe, calls, tmp_path):
        run_recipe(recipe(*story()))
        prompts = tmp_path / "prompts.csv"
        prompts.write_text(prompts.read_text().replace("work 1", "work one"))
        with pytest.raises(StoreError, match="was made with other settings"):
            run_recipe(recipe(*story()))

    def test_a_result_that_is_gone_is_made_again(self, recipe, calls, tmp_path):
        run_recipe(recipe(*story()))
        calls.clear()
        for record in (tmp_path / "results" / "first" / "records").glob("locate-*"):
            (record / "record.json").unlink()
        run_recipe(recipe(*story()))
        assert calls["locate"] == 1

    def test_only_and_from(self, recipe, calls, tmp_path):
        plan = recipe(*story())
        for how in ({"only": "cut"}, {"start": "units"}):
            with pytest.raises(InputError, match=r"step (cut|units) needs first, which has not finished"):
                run_recipe(plan, **how)
        assert calls == {}
        assert not (tmp_path / "results").exists()
        run_recipe(plan, only="first")
        outcomes = run_recipe(plan, start="units")
        assert calls == {"audit": 1, "locate": 1, "prune": 1}
        assert [o.skipped for o in outcomes] == ["left out", "", ""]
        with pytest.raises(InputError, match=r"got frist; did you mean first\?"):
            run_recipe(plan, only="frist")
        with pytest.raises(InputError, match="got both"):
            run_recipe(plan, only="first", start="cut")

    def test_notes_that_are_damaged(self, recipe, tmp_path):
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "steps.json").write_text('{"schema": 1, "steps": {"first": {"value": 3}}}')
        with pytest.raises(StoreError, match="cannot be read"):
            run_recipe(recipe(*story()))


def test_a_mistake_that_a_stage_finds_names_the_step(recipe):
    steps = story()
    steps[0]["threshold"] = 1.0  # nothing replicates, so nothing is found
    with pytest.raises(InputError, match=r"step 3 \(cut\): .*found nothing, so there is nothing to prune"):
        run_recipe(recipe(*steps))
    steps[2]["if_nothing_found"] = "go-on"
    steps.append({"name": "after", "does": "audit", "model": "cut", "threshold": 1.0})
    outcomes = run_recipe(recipe(*steps))
    assert outcomes[2].result.said == "nothing was located, so the model stays as it was"
    settings = [Run.open(outcomes[i].step.out).manifest()["settings"]["model"]["digest"] for i in (0, 3)]
    assert settings[0] == settings[1]


def test_a_gate_that_fails_is_told_and_the_rest_still_runs(recipe):
    gate = {"name": "limit", "does": "gate", "run": "first", "fail_on": ["leak_rate.upper_one_sided > 5%"]}
    outcomes = run_recipe(recipe(story()[0], gate, {"name": "sealed", "does": "verify", "run": "first"}))
    assert [o.result.verdict for o in outcomes] == ["none", "fail", "pass"]
    assert "leak_rate.upper_one_sided" in outcomes[1].result.said


def test_reports_and_comparisons_are_made_anew_from_what_lies_there(recipe, tmp_path):
    again = {"name": "again", "does": "audit", "model": "cut", "before": "first"}
    both = {"name": "both", "does": "compare", "before": "first", "after": "again"}
    told = {"name": "told", "does": "report", "run": "again", "formats": ["json", "md"]}
    plan = recipe(*story(), again, both, told)
    run_recipe(plan)
    assert (tmp_path / "results" / "both.html").is_file()
    (tmp_path / "results" / "told" / "findings.md").unlink()
    outcomes = {o.step.name: o for o in run_recipe(plan)}
    assert [n for n, o in outcomes.items() if not o.skipped] == ["both", "told"]
    assert outcomes["told"].result.said == "findings.json, findings.md"
    assert (tmp_path / "results" / "told" / "findings.md").is_file()


class TestOfARun:
    def test_the_recipe_of_a_run_gives_its_records_again(self, recipe, tmp_path, tiny_sscd):
        steps = story()
        steps[1]["selection"] = {"rung": 1, "limit": 1}
        attack = {"name": "hit", "does": "attack", "run": "first", "references": "references", "keep": [0, 2],
                  "options": {"steps": 2, "draws": 2}, "n_seeds": 1, "selection": {"rung": 0}}  # fmt: skip
        claims = {"name": "claims", "does": "extract", "run": "first", "method": {"clique": 2}}
        run_recipe(recipe(*steps, attack, claims))
        first = tmp_path / "results" / "first"
        text = recipe_of(first)
        assert "# " in text.splitlines()[0]
        content = yaml.safe_load(text)
        assert {s["does"] for s in content["steps"]} == {"audit", "locate", "prune", "attack", "extract"}
        given = {"prompts": str(tmp_path / "prompts.csv"), "references": str(tmp_path / "references"),
                 "out": str(tmp_path / "again")}  # fmt: skip
        assert content["variables"]["sscd_weights"] == "???"  # the run does not say where that lies on this machine
        given["sscd_weights"] = str(tiny_sscd)
        run_recipe(plan_of(recipe_from(content, name="again", base=tmp_path), given))
        kept = [
            sorted(p.name for p in (folder / "records").iterdir()) for folder in (first, tmp_path / "again" / "audit")
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) >= 6

    def test_the_recipe_of_the_results_is_what_was_run(self, recipe, tmp_path):
        plan = recipe(story()[0])
        run_recipe(plan)
        assert recipe_of(tmp_path / "results") == written(plan)

    def test_what_has_not_finished_is_refused(self, tmp_path):
        with pytest.raises(StoreError, match="holds no run"):
            recipe_of(tmp_path)


class Counting:
    """Rows that pass through any U-Net, forward and with a gradient."""

    def __init__(self, monkeypatch):
        from diffusers import UNet2DConditionModel

        self.forward = self.backward = 0
        plain = UNet2DConditionModel.forward

        def counted(net, sample, *args, **kwargs):
            found = plain(net, sample, *args, **kwargs)
            out = found.sample if hasattr(found, "sample") else found[0]
            self.forward += len(sample)
            self.backward += len(sample) if out.requires_grad else 0
            return found

        monkeypatch.setattr(UNet2DConditionModel, "forward", counted)


class TestCosts:
    @pytest.mark.slow
    def test_rows_are_those_that_are_computed(self, recipe, monkeypatch):
        steps = [
            *story(),
            {"name": "contrast", "does": "locate", "run": "first", "method": "activation-contrast", "n_seeds": 2},
            {"name": "slopes", "does": "locate", "run": "first", "method": "gradient-attribution",
             "references": "references", "options": {"n_timesteps": 2}},
            {"name": "hit", "does": "attack", "run": "first", "references": "references", "keep": [0, 1, 7],
             "options": {"steps": 3, "draws": 2, "restarts": 2, "start": "noise"}, "n_seeds": 1, "radii": [0.5]},
            {"name": "words", "does": "attack", "run": "first", "references": "references", "method": "hard-prompt",
             "options": {"steps": 2, "draws": 2}, "keep": [], "random": False, "selection": {"limit": 2}},
            {"name": "noise", "does": "attack", "run": "first", "references": "references", "method": "null-text",
             "options": {"steps": 1, "iterations": 2}, "selection": {"limit": 1}},
            {"name": "learn", "does": "finetune", "run": "first", "references": "references",
             "method": "adversarial-without-embeddings", "surrogates_from": "cut", "surrogates": {"n": 1, "below": 2.0},
             "options": {"steps": 2, "forget_rows": 2, "retain_rows": 3}},
            {"name": "learn-hard", "does": "finetune", "run": "first", "references": "references",
             "surrogates_from": "cut", "surrogates": {"n": 2, "below": 2.0},
             "options": {"steps": 2, "forget_rows": 2, "retain_rows": 1, "inner_steps": 2, "refresh_in": "steps",
                         "refresh_every": 1}, "attack_options": {"draws": 2}},
        ]  # fmt: skip
        plan, known = recipe(*steps), {}
        first = {c.step.name: c for c in costs_of(plan).steps}
        assert (first["first"].forward, first["first"].bound, first["first"].state) == (6 * 2 * 2 * 2, "", "to do")
        assert (first["units"].bound, first["hit"].bound) == ("at most", "")
        assert first["cut"].forward == 0
        assert {c.minutes for c in first.values()} == {None}
        run_recipe(plan, only="first")
        for name in [s["name"] for s in steps[1:]]:
            known[name] = next(c for c in costs_of(plan).steps if c.step.name == name)
            with monkeypatch.context() as patched:
                counting = Counting(patched)
                run_recipe(plan, only=name)
            assert (counting.forward, counting.backward) == (known[name].forward, known[name].backward), name
            assert name in ("learn", "learn-hard") or known[name].bound == "", name
        found = costs_of(plan)
        assert {c.state for c in found.steps} == {"finished"}
        assert {c.forward for c in found.steps} == {0}

    def test_minutes_are_told_where_a_rate_is_known(self, recipe):
        plan = recipe(*story())
        assert "minutes: not known; add --time" in " ".join(costs_of(plan).notes)
        timed = costs_of(plan, timed=True)
        assert "timed just now on cpu" in " ".join(timed.notes)
        assert 0 < timed.steps[0].minutes < 10
        run_recipe(plan, only="first")
        later = costs_of(plan)
        assert "at the rate of step first" in " ".join(later.notes)
        assert later.steps[1].minutes > 0

    def test_an_audit_that_was_interrupted_costs_what_is_missing(self, recipe, tmp_path):
        plan = recipe({"name": "first", "does": "audit", "batch_size": 4})
        run_recipe(plan)
        (tmp_path / "results" / "first" / "images" / "w0" / "0.png").unlink()
        (tmp_path / "results" / "first" / "summary.json").unlink()
        (cost,) = costs_of(plan).steps
        assert (cost.state, cost.forward) == ("begun", 4 * 2 * 2)


@pytest.mark.slow
def test_requests_are_deleted_verified_and_one_is_rolled_back(listed, tiny_pipeline, tiny_sscd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "model": str(tiny_pipeline), "prompts": "prompts.csv", "references": "references", "n_seeds": 1,
        "num_inference_steps": 2, "guidance_scale": 1.0, "localizer": "wanda-subspace", "threshold": -1.0,
        "localizer_options": {"r": 0.1, "tau": 1}, "descriptor": "sscd-mini", "sscd_weights": str(tiny_sscd),
        "device": "cpu", "requests": [{"works": ["w0.png"]}, {"works": ["w1.png", "w2.png"]}],
    }  # fmt: skip
    outcomes = {o.step.name: o for o in run_recipe(plan_of(open_recipe("deletion-requests"), given))}
    runs = tmp_path / "runs" / "deletion-requests"
    with (runs / "request-2.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["w1", "w2", "b0", "b1"]
    edits = [sorted(p.stem for p in (runs / f"asked-{i}" / "edits").glob("*")) for i in (1, 2)]
    assert [len(names) for names in edits] == [1, 2]  # the second is kept again, as it is without the first
    assert json.loads((runs / "deleted-2" / "amnestic-edit.json").read_text())["edit"] in edits[1]
    audited = {n: Run.open(runs / n).manifest()["settings"]["model"]["digest"] for n in outcomes if "request-" in n
               and not n.startswith("request")}  # fmt: skip
    assert audited["after-2-request-1"] == audited["after-2-request-2"] != audited["after-1-request-1"]
    base = PipelineTarget.load(tiny_pipeline).ident.digest
    assert audited["rolled-back-request-1"] == audited["rolled-back-request-2"] not in (base, *(
        v for k, v in audited.items() if k.startswith("after")))  # fmt: skip
    assert "taken back" in outcomes["rolled-back"].result.said


@pytest.fixture
def amnestic(monkeypatch, capsys):
    """A command as a person types it: exit code, what was printed, and what was complained about."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["amnestic", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return call


def test_the_command_prints_runs_and_lists(recipe, tmp_path, amnestic, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gate = {"name": "limit", "does": "gate", "run": "first", "fail_on": ["leak_rate.upper_one_sided > 5%"]}
    recipe(story()[0], gate)
    code, out, _ = amnestic("run", "recipe.yaml", "--print-config", "--set", "out=elsewhere")
    assert code == 0
    assert yaml.safe_load(out)["variables"] == {"out": str(tmp_path / "elsewhere")}
    code, out, _ = amnestic("run", "recipe.yaml", "--dry-run")
    assert code == 0
    assert "together: 48 rows forward, 0 of them back" in out
    assert "nothing was run" in out
    assert not (tmp_path / "results").exists()
    code, out, _ = amnestic("run", "recipe.yaml")
    assert code == 3  # the gate failed
    assert "step 1 of 2, first: leak rate 100 % of 4 works" in out
    code, out, _ = amnestic("run", "recipe.yaml")
    assert "step 1 of 2, first: finished before" in out
    code, out, _ = amnestic("run", "--of", "results/first")
    assert code == 0
    assert yaml.safe_load(out)["steps"][0]["n_seeds"] == 2


def test_the_shipped_ones_are_listed(amnestic):
    code, out, _ = amnestic("run", "--list")
    assert code == 0
    assert "deletion-requests" in out
    assert "--set requests=..." in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "expected a RECIPE, --list or --of RUN"),
        (["run", "unlearning-stori"], "did you mean unlearning-story?"),
        (["run", "unlearning-story", "--set", "model"], "expected a setting such as"),
        (["run", "unlearning-story", "--time"], "give it with --dry-run"),
        (["run", "unlearning-story", "--list"], "one of them only"),
        (["run", "--of", "/nowhere"], "holds no run"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, sentence, amnestic):
    code, _, err = amnestic(*arguments)
    assert code == 2
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_it_works_from_a_shell():
    words = [sys.executable, "-m", "amnestic", "run", "replication-audit"]
    done = subprocess.run(words, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("amnestic: replication-audit needs a value for model, prompts, references")


class TestShipped:
    """The recipes that come with the package, from the first step to the last, on a model that takes a second."""

    @pytest.fixture
    def given(self, listed, tiny_pipeline, tiny_sscd, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return {
            "model": str(tiny_pipeline), "prompts": "prompts.csv", "references": "references", "n_seeds": 1,
            "num_inference_steps": 2, "guidance_scale": 1.0, "threshold": -1.0, "descriptor": "sscd-mini",
            "sscd_weights": str(tiny_sscd), "device": "cpu",
        }  # fmt: skip

    def test_replication_audit(self, given):
        (first, *_) = run_recipe(plan_of(open_recipe("replication-audit"), given))
        assert "leak rate 100" in first.result.said

    @pytest.mark.slow
    def test_unlearning_story(self, given, tmp_path):
        quick = {"steps": 1, "draws": 2}
        given |= {
            "localizer": "wanda-subspace", "localizer_options": {"r": 0.1, "tau": 1}, "attack_options": quick,
            "attacked": {"limit": 2}, "surrogates": {"n": 1, "below": 1.0},
            "unlearning_options": {"steps": 1, "forget_rows": 2, "retain_rows": 1, "refreshes": 1, "inner_steps": 1},
        }  # fmt: skip
        outcomes = {o.step.name: o for o in run_recipe(plan_of(open_recipe("unlearning-story"), given))}
        assert not [name for name, o in outcomes.items() if o.skipped]
        runs = tmp_path / "runs" / "unlearning-story"
        digests = {n: Run.open(runs / n).manifest()["settings"]["model"]["digest"]
                   for n in ("original", "pruned", "unlearned")}  # fmt: skip
        assert len(set(digests.values())) == 3
        for name in ("pruned", "unlearned"):
            assert Run.open(runs / name).records("attack")
            assert json.loads((runs / name / "summary.json").read_text())["before_after"]

    @pytest.mark.slow
    def test_dori_table(self, given, tmp_path, monkeypatch):
        outliers = build("localizer", "value-zscore", {"theta": 0.5})
        monkeypatch.setattr(Nemo, "locate", lambda _, *asked: outliers.locate(*asked))  # nothing is memorized here
        given |= {
            "wanda_options": {"r": 0.1, "tau": 1}, "works": {"limit": 1}, "steps": 1, "twin": given["model"],
            "nemo_options": {"similarity": "ssim"},
        }  # fmt: skip
        outcomes = {o.step.name: o for o in run_recipe(plan_of(open_recipe("dori-table"), given))}
        runs = tmp_path / "runs" / "dori-table"
        assert len(Run.open(runs / "wanda").records("attack")) == 3
        assert len(Run.open(runs / "nemo").records("attack")) == 3
        assert {"report-on-original", "report-on-nemo", "report-on-wanda"} <= outcomes.keys()
