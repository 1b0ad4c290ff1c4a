"""Commands: exit codes, sentences instead of tracebacks, light help."""

import subprocess
import sys

import pytest


def amnestic(*args):
    return subprocess.run([sys.executable, "-m", "amnestic", *args], capture_output=True, text=True, check=False)


def test_help_is_light():
    code = "import sys, amnestic.cli; assert 'torch' not in sys.modules, 'torch was imported'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = amnestic("--help")
    assert done.returncode == 0
    assert "audit" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["audit", "/nowhere", "--prompts", "{list}", "--references", "{refs}", "--out", "{out}"], "/nowhere"),
        (["audit", "m", "--prompts", "/no/list.csv", "--references", "{refs}", "--out", "{out}"], "/no/list.csv"),
        (["audit", "m", "--prompts", "{list}", "--references", "/no/folder", "--out", "{out}"], "/no/folder"),
        (["audit", "m", "--prompts", "{bare}", "--references", "{refs}", "--out", "{out}"], "add a column image"),
        (
            ["audit", "m", "--prompts", "{list}", "--references", "{refs}", "--out", "{out}", "--max-leak-rate", "5"],
            "--max-leak-rate 5: expected a share between 0 and 1; 5 % is 0.05",
        ),
        (["audit", "m", "--prompts", "{empty}", "--references", "{refs}", "--out", "{out}"], "empty"),
        (["audit", "m", "--prompts", "{wrong}", "--references", "{refs}", "--out", "{out}"], "promt"),
        (["status", "{refs}"], "holds no run"),
        (["testbed", "info", "{refs}"], "manifest.json"),
    ],
)
def test_user_mistakes_end_in_one_sentence(arguments, sentence, tmp_path):
    from PIL import Image

    refs = tmp_path / "refs"
    refs.mkdir()
    Image.new("RGB", (8, 8), "red").save(refs / "a.png")
    (tmp_path / "list.csv").write_text("id,prompt,image\np1,a cat,a.png\n")
    (tmp_path / "bare.csv").write_text("id,prompt\np1,a cat\n")
    (tmp_path / "empty.csv").write_text("id,prompt\n")
    (tmp_path / "wrong.csv").write_text("id,prompt,promtt\np1,a cat,x\n")
    names = {n: tmp_path / f"{n}.csv" for n in ("list", "bare", "empty", "wrong")} | {
        "refs": refs,
        "out": tmp_path / "out",
    }
    done = amnestic(*(a.format(**names) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_a_choice_that_is_none_is_a_usage_error():
    files = ["--prompts", "p.csv", "--references", "refs", "--out", "out"]
    done = amnestic("audit", "m", *files, "--keep", "latent")
    assert done.returncode == 2
    for words in ("Invalid value for '--keep'", "'images'", "'latents'", "'both'"):
        assert words in done.stderr


def test_unknown_option_is_a_usage_error():
    assert amnestic("audit", "--nonsense").returncode == 2


def test_what_was_not_measured_is_a_dash(capsys):
    from amnestic.terminal import print_summary

    nothing = {"estimate": None, "lower": None, "upper": None, "upper_one_sided": None, "n": 0}
    one = nothing | {"estimate": 1.0, "n": 1}
    rung = {"rung": 3, "mean_score": None, "leak_rate": one}
    print_summary(
        {
            "descriptor": {"name": "d"}, "threshold": {"value": 0.5}, "leak_rate": one, "ladder": [rung],
            "by_label": {"VM": {"leak_rate": nothing}}, "controls": {}, "verdict": "none",
        }
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "rung 3 (mean -)" in shown
    assert "100 %" in shown
    assert "- to -" in shown
    assert "not measured" in shown
    assert "nan" not in shown.lower()
