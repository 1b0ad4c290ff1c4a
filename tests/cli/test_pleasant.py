"""Commands are pleasant to use: variables, config files, hints, examples, quiet logs, JSON, completion."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from amnestic import __version__
from amnestic.cli import COMMANDS, app, main
from amnestic.commands.completion import ROOMS, method_names
from amnestic.commands.config_file import key_of
from amnestic.commands.doctor_checks import EXTRAS, examine
from amnestic.commands.options import PANELS
from amnestic.commands.tree import EVERYWHERE, MANY, leaves
from amnestic.core.records import MethodSpec
from amnestic.core.registry import ROOMS as REGISTERED
from amnestic.core.registry import methods
from amnestic.core.store import Record, Run
from amnestic.terminal import Manner, _log_lines, manner, print_json, progress_bars

TREE = typer.main.get_command(app)
LEAVES = dict(leaves(TREE))
AUDIT = ["audit", "m", "--prompts", "p.csv", "--references", "refs", "--out", "out"]
by_command = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


def amnestic(*args, env=None, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AMNESTIC_")} | (env or {})
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-m", "amnestic", *args], text=True, check=False, env=environment, **how)


def inside(*args, env=None):
    """The same without a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AMNESTIC_")} | (env or {})
    out, err = StringIO(), StringIO()
    with (
        mock.patch.dict(os.environ, kept, clear=True), mock.patch.object(sys, "argv", ["amnestic", *args]),
        redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end,
    ):  # fmt: skip
        main()
    return subprocess.CompletedProcess(args, end.value.code, out.getvalue(), err.getvalue())


def parsed(*args, env=None):
    """Options as a command would see them."""
    done = CliRunner().invoke(app, [*args, "--print-config"], env=env or {})
    assert done.exit_code == 0, (done.output, done.exception)
    return yaml.safe_load(done.stdout)


def refused(*args, **settings):
    done = inside(*args, **settings)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


class TestVariables:
    @pytest.mark.parametrize(
        ("variable", "text", "key", "value"),
        [
            ("SEEDS", "7", "seeds", 7),
            ("GUIDANCE_SCALE", "2.5", "guidance-scale", 2.5),
            ("SCHEDULER", "PNDMScheduler", "scheduler", "PNDMScheduler"),
            ("SSCD_WEIGHTS", "some/file", "sscd-weights", "some/file"),
            ("ALLOW_PICKLE", "true", "allow-pickle", True),
            ("JSON", "1", "json", True),
            ("KEEP", "both", "keep", "both"),
            ("LORA", "a b", "lora", ["a", "b"]),
        ],
    )
    def test_every_kind(self, variable, text, key, value):
        assert key not in parsed(*AUDIT)["audit"] or parsed(*AUDIT)["audit"][key] != value
        assert parsed(*AUDIT, env={f"AMNESTIC_AUDIT_{variable}": text})["audit"][key] == value

    def test_a_switch_that_is_on_can_be_switched_off(self):
        env = {"AMNESTIC_ATTACK_RANDOM": "false"}
        assert parsed("attack", "r", "--references", "o", env=env)["attack"]["random"] is False

    def test_a_required_option(self):
        env = {"AMNESTIC_AUDIT_PROMPTS": "q.csv", "AMNESTIC_AUDIT_OUT": "o", "AMNESTIC_AUDIT_REFERENCES": "r"}
        assert parsed("audit", "m", env=env)["audit"]["prompts"] == "q.csv"

    def test_of_commands_within_commands(self):
        found = parsed("testbed", "build", "--out", "x", env={"AMNESTIC_TESTBED_BUILD_SEED": "4"})
        assert found["testbed"]["build"]["seed"] == 4

    def test_a_wrong_value_names_its_variable(self):
        said = refused(*AUDIT, env={"AMNESTIC_AUDIT_SEEDS": "many"})
        assert "'--seeds' from AMNESTIC_AUDIT_SEEDS" in said
        assert "'many'" in said

    def test_a_variable_that_is_no_option_is_said(self):
        done = inside(*AUDIT, "--print-config", env={"AMNESTIC_AUDIT_SEDS": "7"})
        assert yaml.safe_load(done.stdout)["audit"]["seeds"] == 4
        assert "AMNESTIC_AUDIT_SEDS is no option; did you mean AMNESTIC_AUDIT_SEEDS?" in done.stderr

    @by_command
    def test_every_option_has_one_of_its_own(self, path):
        own = [p for p in LEAVES[path].params if p.param_type_name == "option" and p.expose_value]
        names = [p.envvar for p in own]
        assert names == [f"AMNESTIC_{'_'.join((*path, key_of(p)))}".replace("-", "_").upper() for p in own]
        assert len(set(names)) == len(names)
        assert not own or f"AMNESTIC_{'_'.join(path)}_OPTION".upper().replace("-", "_") in LEAVES[path].epilog


class TestConfigFile:
    def write(self, tmp_path, content, name="c.yaml"):
        file = tmp_path / name
        file.write_text(content)
        return str(file)

    def test_command_line_wins_over_variable_over_file_over_default(self, tmp_path):
        file, env = self.write(tmp_path, "audit: {seeds: 2}"), {"AMNESTIC_AUDIT_SEEDS": "3"}
        assert parsed(*AUDIT)["audit"]["seeds"] == 4
        assert parsed("--config", file, *AUDIT)["audit"]["seeds"] == 2
        assert parsed("--config", file, *AUDIT, env=env)["audit"]["seeds"] == 3
        assert parsed("--config", file, *AUDIT, "--seeds", "5", env=env)["audit"]["seeds"] == 5

    def test_it_may_stand_after_the_command_or_in_a_variable(self, tmp_path):
        file = self.write(tmp_path, "audit: {seeds: 2}\ntestbed: {build: {seed: 9}}")
        other = self.write(tmp_path, "audit: {seeds: 8}", "other.yaml")
        assert parsed(*AUDIT, "--config", file)["audit"]["seeds"] == 2
        assert parsed(*AUDIT, env={"AMNESTIC_CONFIG": file})["audit"]["seeds"] == 2
        assert parsed("--config", other, *AUDIT, env={"AMNESTIC_CONFIG": file})["audit"]["seeds"] == 8
        assert parsed("testbed", "build", "--out", "x", "--config", file)["testbed"]["build"]["seed"] == 9

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("c.yaml", "audit: {model: n, allow_pickle: true, num-inference-steps: 3, lora: [a, b], clip: null}"),
            ("c.toml", '[audit]\nmodel="n"\nallow-pickle=true\nnum-inference-steps=3\nlora=["a","b"]'),
            ("c.json", '{"audit": {"model": "n", "allow-pickle": true, "num_inference_steps": 3, "lora": ["a", "b"]}}'),
        ],
    )
    def test_every_format_and_kind(self, tmp_path, name, content):
        found = parsed("--config", self.write(tmp_path, content, name), "audit", *AUDIT[2:])["audit"]
        assert (found["model"], found["allow-pickle"], found["num-inference-steps"]) == ("n", True, 3)
        assert found["lora"] == ["a", "b"]
        assert "clip" not in found

    def test_settings_of_a_method_may_be_a_mapping(self, tmp_path):
        file = self.write(tmp_path, "locate: {option: {r: 0.1, layers: [1, 2], tau-share: null, x: true}}")
        words = parsed("--config", file, "locate", "run")["locate"]["option"]
        assert words == ["r=0.1", "layers=[1, 2]", "tau-share=null", "x=true"]

    def test_what_is_printed_can_be_read(self, tmp_path):
        first = parsed(*AUDIT, "--seeds", "2", "--allow-pickle", "--lora", "a: b")
        file = self.write(tmp_path, yaml.safe_dump(first))
        assert parsed("audit", "--config", file) == first

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("adit: {seeds: 2}", "there is no command adit; did you mean audit?"),
            ("audit: {sedes: 2}", "audit has no option sedes; did you mean seeds?"),
            ("audit: {run: x}", "audit has no option run"),
            ("testbed: {bild: {}}", "testbed: there is no command bild; did you mean build?"),
            ("audit: 3", "expected options such as NAME: VALUE, got 3"),
            ("[1]", "expected commands"),
            ("audit: {seeds: [1, 2]}", "expected one value, got [1, 2]"),
            ("audit: {allow-pickle: maybe}", "expected true or false, got maybe"),
            ("audit: {seeds: many}", "'--seeds' from the config file"),
            ("audit: {keep: latent}", "did you mean latents?"),
            ("audit: {seeds: !!python/object/apply:os.getcwd []}", "is no yaml"),
            ("audit: {seeds: ", "is no yaml"),
        ],
    )
    def test_mistakes_are_one_sentence(self, tmp_path, content, sentence):
        assert sentence in refused("--config", self.write(tmp_path, content), *AUDIT)

    def test_files_that_are_none(self, tmp_path):
        assert "cannot be read" in refused("--config", str(tmp_path / "none.yaml"), *AUDIT)
        assert "ends in .yaml, .toml or .json" in refused("--config", self.write(tmp_path, "", "c.ini"), *AUDIT)
        assert "is no toml" in refused("--config", self.write(tmp_path, "[audit", "c.toml"), *AUDIT)


class TestHints:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["audti"], "No such command 'audti'; did you mean 'audit'?"),
            (["testbed", "inof"], "did you mean 'info'?"),
            (["audit", "m", "--promts", "x"], "No such option --promts; did you mean --prompts?"),
            ([*AUDIT, "--keep", "latent"], "did you mean latents?"),
            (["list", "atack"], "did you mean attack?"),
            (["locate", "r", "--controls", "hedlout"], "did you mean heldout?"),
            (["audit", "m"], "Missing option '--prompts'; see amnestic audit --help"),
            (["audit"], "Missing argument 'model'; see amnestic audit --help"),
            (["status", "a", "b"], "Got unexpected extra arguments (b); see amnestic status --help"),
            ([*AUDIT, "--seeds", "0"], "'--seeds'"),
            ([*AUDIT, "--quiet", "--verbose"], "expected --quiet or --verbose, got both"),
        ],
    )
    def test_usage(self, arguments, sentence):
        assert sentence in refused(*arguments)

    @pytest.mark.parametrize("method", ["nemoo", "wanda-subspaces"])
    def test_methods(self, method):
        from amnestic.core.errors import InputError
        from amnestic.core.registry import build

        with pytest.raises(InputError, match="did you mean"):
            build("localizer", method)


class TestHelp:
    @by_command
    def test_every_example_parses(self, path):
        lines = LEAVES[path].examples
        assert 1 <= len(lines) <= 3, f"give {' '.join(path)} one to three examples"
        for line in lines:
            words = shlex.split(line, comments=True)
            assert words[: 1 + len(path)] == ["amnestic", *path]
            context = LEAVES[path].make_context(path[-1], words[1 + len(path) :])
            assert context.args == []

    @by_command
    def test_many_options_stand_in_panels(self, path):
        own = [p for p in LEAVES[path].params if p.param_type_name == "option" and p.expose_value]
        panels = {p.rich_help_panel for p in own} - {None}
        assert bool(panels) == (len(own) > MANY)
        assert len([p for p in own if p.rich_help_panel is None]) <= MANY

    def test_panels_share_no_option(self):
        names = [name for some in PANELS.values() for name in some]
        assert len(names) == len(set(names))

    def test_commands_stand_in_panels(self):
        shown = amnestic("--help", env={"COLUMNS": "100"})
        assert shown.returncode == 0
        assert [re.search(rf"─ {panel} ─", shown.stdout) is not None for panel in COMMANDS] == [True] * len(COMMANDS)
        assert "Exit codes: 0 done" in shown.stdout

    def test_examples_stand_at_the_end_as_they_are_typed(self):
        shown = amnestic("gate", "--help", env={"COLUMNS": "130"}).stdout
        assert shown.index("Examples") > shown.index(EVERYWHERE)
        assert "$ amnestic gate" in shown
        assert "AMNESTIC_GATE_FAIL_ON]" in shown.replace("env var: ", "")

    def test_version(self):
        assert inside("--version").stdout == f"amnestic {__version__}\n"

    def test_colour_is_left_out_on_request(self):
        assert "\x1b[" in amnestic("audit", "--help", env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).stdout
        plain = amnestic("audit", "--help", env={"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm-256color"}).stdout
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)


class TestProgress:
    def lines(self, capsys, seconds_each, total=100, **how):
        now = [0.0]
        show = _log_lines(clock=lambda: now[0], **how)
        for done in range(total + 1):
            show("generate", done, total)
            now[0] += seconds_each
        return capsys.readouterr().err.splitlines()

    def test_fast_work_is_two_lines(self, capsys):
        first, last = self.lines(capsys, 0.1)
        assert re.fullmatch(r"\d\d:\d\d:\d\d generate: 0 of 100", first)
        assert re.fullmatch(r"\d\d:\d\d:\d\d generate: 100 of 100, 10 images/s", last)

    def test_slow_work_is_a_line_for_each_tenth(self, capsys):
        lines = self.lines(capsys, 60.0)
        assert len(lines) == 11
        assert lines[5].endswith("50 of 100, 1 images/min, 0:50:00 left")

    def test_between_tenths_at_most_every_half_minute(self, capsys):
        assert len(self.lines(capsys, 1.0)) == 5  # 0, 30, 60, 90 and the last
        assert len(self.lines(capsys, 10.0, every_tenth=False)) == 35

    def test_what_was_there_before_is_no_speed(self, capsys):
        now = [0.0]
        show = _log_lines(clock=lambda: now[0])
        show("generate", 900, 1000)
        now[0] = 50.0
        show("generate", 1000, 1000)
        assert capsys.readouterr().err.splitlines()[-1].endswith("1000 of 1000, 2 images/s")

    def test_quiet(self, capsys):
        token = manner.set(Manner(quiet=True))
        try:
            with progress_bars() as show:
                show("generate", 1, 2)
        finally:
            manner.reset(token)
        assert capsys.readouterr() == ("", "")

    def test_of_several_processes_the_first_one_speaks(self, capsys, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        with progress_bars() as show:
            show("generate", 1, 2)
        assert capsys.readouterr() == ("", "")

    def test_a_terminal_shows_a_bar_with_rate_and_time_left(self, monkeypatch, capsys):
        from amnestic import terminal

        shown = StringIO()
        monkeypatch.setattr(
            terminal, "errors", terminal._Console(file=shown, force_terminal=True, width=120, color_system=None)
        )
        with progress_bars() as show:
            show("train unet", 0, 4)
            show("train unet", 2, 4)
        assert "2/4" in shown.getvalue()
        assert "steps/s" in shown.getvalue()
        assert capsys.readouterr().out == ""


def record(stage="locate", **data):
    return Record(stage=stage, made_by=MethodSpec(name="m", parameters={}), parents=("a",), data=data, tensors={})


class TestJson:
    @pytest.mark.parametrize(
        ("arguments", "stage"),
        [
            (["locate", "r"], "locate"),
            (["locate", "r", "--analyze"], "analyze"),
            (["attack", "r", "--references", "o"], "attack"),
            (["finetune", "r", "--references", "o", "--out", "x"], "finetune"),
            (["extract", "r"], "extract"),
        ],
    )
    def test_records(self, arguments, stage, monkeypatch):
        from amnestic import stages

        monkeypatch.setattr(stages, stage, lambda *_, progress, **__: progress("x", 0, 1) or record(stage, works=[1]))
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.exception
        found = json.loads(done.stdout)
        assert list(found) == ["record", "stage", "made_by", "parents", "data"]
        assert found["record"] == record(stage).id
        assert found["data"] == {"works": [1]}
        assert "x: 0 of 1" in done.stderr

    def test_locality(self, monkeypatch):
        study = import_module("amnestic.stages.studying_locality")
        monkeypatch.setattr(study, "locality", lambda *_, progress: record("locality", rounds=[]))
        done = CliRunner().invoke(app, ["locality", "r", "--references", "o", "--json"])
        assert json.loads(done.stdout)["stage"] == "locality"

    @pytest.mark.parametrize(
        ("stage", "arguments"),
        [("prune", ["prune", "r", "--out", "x"]), ("restore", ["restore", "e", "--run", "r", "--out", "x"])],
    )
    def test_edits(self, stage, arguments, monkeypatch):
        from amnestic import stages

        monkeypatch.setattr(stages, stage, lambda *_, **__: {"weights": 3, "model": "abc"})
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert json.loads(done.stdout) == {"weights": 3, "model": "abc"}

    @pytest.mark.parametrize(("verdict", "code"), [("none", 0), ("pass", 0), ("fail", 3), ("inconclusive", 4)])
    def test_an_audit_tells_its_verdict_in_both(self, verdict, code, monkeypatch):
        from amnestic import stages

        monkeypatch.setattr(stages, "audit", lambda *_, **__: {"verdict": verdict})
        done = CliRunner().invoke(app, [*AUDIT, "--json"])
        assert (json.loads(done.stdout), done.exit_code) == ({"verdict": verdict}, code)

    def test_other_processes_print_nothing(self, monkeypatch):
        from amnestic import stages

        monkeypatch.setattr(stages, "audit", lambda *_, **__: None)
        assert CliRunner().invoke(app, [*AUDIT, "--json"]).stdout == ""

    def test_status(self, tmp_path):
        settings = {"n_prompts": 2, "seeds": [0, 1], "model": {"name": "owner/name"}}
        Run.start(tmp_path / "run", settings)
        found = json.loads(inside("status", str(tmp_path / "run"), "--json").stdout)
        assert found == {"model": "owner/name", "images": 0, "of": 4, "finished": False, "summary": None}

    def test_list_and_testbed(self):
        found = json.loads(CliRunner().invoke(app, ["list", "localizer", "--json"]).stdout)
        assert [one["name"] for one in found] == list(methods("localizer"))
        assert all(one["what"] and isinstance(one["settings"], dict) for one in found)
        assert "measured" in json.loads(CliRunner().invoke(app, ["testbed", "info", "--json"]).stdout)

    def test_a_mistake_leaves_standard_output_empty(self):
        refused("status", "/nowhere", "--json")

    def test_it_knows_no_nan(self, capsys):
        with pytest.raises(ValueError, match="JSON"):
            print_json({"x": float("nan")})
        assert capsys.readouterr().out == ""


class TestDoctor:
    def test_a_sound_installation(self, tmp_path):
        done = inside("doctor", "--json", env={"HF_HUB_OFFLINE": "1", "AMNESTIC_CACHE": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["works"], told["missing"]) == (True, [])
        found = {(one["section"], one["what"]): one for one in told["findings"]}
        assert found["packages", "torch"]["required"]
        assert found["device", "--dtype float32"]["state"] == "ok"
        assert found["network", "Hub"]["found"] == "offline, since HF_HUB_OFFLINE is set"
        assert found["weights", "SSCD, published"]["state"] == "note"
        assert str(tmp_path) in found["weights", "SSCD, published"]["found"]
        assert not list(tmp_path.iterdir())
        assert {what for section, what in found if section == "extras"} == set(EXTRAS)

    def test_what_is_missing_and_needed(self, monkeypatch):
        from amnestic.commands import doctor_checks

        monkeypatch.setenv("AMNESTIC_OFFLINE", "1")
        monkeypatch.setattr(doctor_checks, "requires", lambda _: ["torch>=2.9", "no-such-thing>=3", "rich>=9999"])
        monkeypatch.setattr(doctor_checks, "_torch", lambda: (None, None))
        found = {one.what: one for one in examine() if one.section == "packages"}
        assert found["no-such-thing"].remedy == "pip install 'no-such-thing>=3'"
        assert found["rich"].found.endswith(", older than 9999")
        done = CliRunner().invoke(app, ["doctor"])
        assert done.exit_code == 5
        assert "needed and missing: no-such-thing, rich" in done.stdout

    def test_extras_that_are_missing_tell_their_command(self, monkeypatch):
        from amnestic.commands import doctor_checks

        monkeypatch.setattr(doctor_checks, "find_spec", lambda _: None)
        for one in doctor_checks.extras():
            assert (one.state, one.remedy) == ("note", f"pip install 'amnestic[{one.what}]'")

    def test_a_torch_that_does_not_load(self, monkeypatch):
        from amnestic.commands import doctor_checks

        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.setattr(doctor_checks, "find_spec", lambda name: name)
        _, problem = doctor_checks._torch()
        assert problem.required
        assert "cannot be imported" in problem.found

    def test_a_hub_that_answers_not(self, monkeypatch):
        from amnestic.commands import doctor_checks

        for name in ("HF_HUB_OFFLINE", "AMNESTIC_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        for address in ("http://127.0.0.1:9", "file:///etc"):
            monkeypatch.setenv("HF_ENDPOINT", address)
            assert doctor_checks.hub().state == "note"
            assert "does not answer" in doctor_checks.hub().found

    def test_every_extra_for_users_is_looked_at(self):
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        offered = {name for name in project["optional-dependencies"] if name not in ("dev", "docs", "notebooks")}
        assert offered <= set(EXTRAS)


class TestCompletion:
    def offered(self, *words):
        """What the shell is offered for the last word."""
        env = {"_AMNESTIC_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return inside(env=env).stdout.split()

    @pytest.mark.parametrize(
        ("words", "some"),
        [
            (["amnestic", "lo"], ["locality", "locate"]),
            (["amnestic", "audit", "m", "--keep", "l"], ["latents"]),
            (["amnestic", "audit", "m", "--allow-p"], ["--allow-pickle"]),
            (["amnestic", "locate", "r", "--method", "ne"], ["nemo"]),
            (["amnestic", "attack", "r", "--method", "auto"], ["auto-dori"]),
            (["amnestic", "prune", "r", "--method", "z"], ["zero-units"]),
            (["amnestic", "finetune", "r", "--attack", "dori"], ["dori"]),
            (["amnestic", "finetune", "r", "--method", "si"], ["siss"]),
            (["amnestic", "locate", "r", "--device", "cu"], ["cuda"]),
            (["amnestic", "list", "att"], ["attack"]),
        ],
    )
    def test_words(self, words, some):
        assert self.offered(*words) == some

    def test_records_of_the_run(self, tmp_path):
        for name in ("locate-abc", "locate-def", "attack-abc"):
            (tmp_path / "records" / name).mkdir(parents=True)
            (tmp_path / "records" / name / "record.json").write_text("{}")
        (tmp_path / "records" / "locate-unfinished").mkdir()
        run = str(tmp_path)
        assert self.offered("amnestic", "prune", run, "--located", "lo") == ["locate-abc", "locate-def"]
        assert self.offered("amnestic", "locate", run, "--like", "locate-d") == ["locate-def"]
        assert self.offered("amnestic", "prune", "/nowhere", "--located", "lo") == []

    @pytest.mark.parametrize("family", ROOMS)
    def test_names_are_those_of_the_registry(self, family):
        assert method_names(family) == list(methods(family))
        assert set(ROOMS.values()) == set(REGISTERED)

    def test_names_cost_no_import(self):
        code = (
            "import sys\nfrom amnestic.commands.completion import ROOMS, method_names\n"
            "names = [method_names(f) for f in ROOMS]\nassert all(names) and 'torch' not in sys.modules"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_script_for_a_shell(self, shell):
        done = inside("--show-completion", shell, env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
        assert done.returncode == 0
        assert "_AMNESTIC_COMPLETE" in done.stdout

    def test_it_is_installed_under_the_home_folder(self, tmp_path):
        env = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        done = amnestic("--install-completion", "bash", env=env)
        assert done.returncode == 0, done.stderr
        assert "_AMNESTIC_COMPLETE" in (tmp_path / ".bash_completions" / "amnestic.sh").read_text()


class TestEnds:
    @pytest.mark.parametrize("words", [["info"], ["info", "--json"], ["path"], ["--help"]], ids=" ".join)
    def test_a_reader_that_goes_away(self, words):
        read, write = os.pipe()
        os.close(read)
        done = amnestic("testbed", *words, stdout=write)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, "")

    def test_an_interrupt_is_one_sentence(self):
        code = (
            "import sys\nfrom amnestic import cli\n"
            "def stop(*_, **__):\n    raise KeyboardInterrupt\n"
            "import amnestic.core.store as store\nstore.Run.open = stop\n"
            "sys.argv = ['amnestic', 'status', 'x']\ncli.main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (130, "", 1)
        assert "nothing written so far is lost" in done.stderr

    @pytest.mark.parametrize(("words", "shown"), [([], False), (["--debug"], True)])
    def test_a_surprise_is_a_sentence_unless_debugging(self, words, shown):
        code = (
            "import sys\nfrom amnestic import cli\n"
            "def fail(*_, **__):\n    raise RuntimeError('[/] broken')\n"
            "import amnestic.core.store as store\nstore.Run.open = fail\n"
            f"sys.argv = ['amnestic', 'status', 'x', *{words}]\ncli.main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "RuntimeError: [/] broken" in done.stderr
        assert ("Traceback" in done.stderr) == shown
        assert done.returncode == (1 if shown else 5)

    def test_names_are_never_read_as_markup(self, capsys):
        from rich.table import Table

        from amnestic.terminal import out

        table = Table("label")
        table.add_row("[/] [bold]x :smile:")
        out.print(table)
        assert "[/] [bold]x :smile:" in capsys.readouterr().out
