"""The command of a report asks for the same run and does not say where the package is installed."""

import shlex
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest

from amnestic import cli, stages
from amnestic.audit.request import AuditRequest
from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder, name_for_others, path_for_others
from amnestic.core.records import Keep, Sampling
from amnestic.testbed import bundled

LEAST = AuditRequest(model="owner/name", prompts=Path("my prompts.csv"), references=Path("originals"), out=Path("out"))
ALL = AuditRequest(
    model="models/mine", prompts=Path("it's.csv"), references=Path("originals"), out=Path("out"), n_seeds=7,
    sampling=Sampling(scheduler="model", num_inference_steps=9, guidance_scale=1.25, height=64, width=72),
    revision="main", variant="fp16", dtype="bfloat16", device="cpu", allow_pickle=True, descriptor="sscd",
    sscd_weights=Path("sscd.pt"), preprocessing="native", allow_torchscript=True, threshold=0.6, clip="ViT-B-32",
    clip_pretrained="openai", batch_size=3, keep=Keep.LATENTS, limit_prompts=5, max_leak_rate=0.05,
    before=Path("before"), twin=Path("twin"), real_images=Path("real"), show_originals=True, config=Path("settings"),
    lora=("style.safetensors:0.5", "owner/name"),
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """What a command line asks for, without doing it."""

    def of(words):
        found = []
        monkeypatch.setattr(stages, "audit", lambda request, **_how: found.append(request))
        monkeypatch.setattr(stages, "demo", lambda request, _testbed, **_how: found.append(request) or [])
        cli.app(words, standalone_mode=False)
        return found[0]

    return of


@pytest.mark.parametrize("request_", [LEAST, ALL], ids=["least", "all"])
def test_command_asks_for_the_same(request_, asked):
    words = shlex.split(request_.command())
    assert words[0] == "amnestic"
    assert asked(words[1:]) == request_


def test_all_options_were_tried():
    usual = {f.name for f in fields(ALL) if getattr(ALL, f.name) == getattr(LEAST, f.name)}
    assert usual == {"references", "out", "bundled", "shortcut"}


def test_demo_is_its_own_command(asked, monkeypatch, tmp_path):
    (tmp_path / "manifest.json").write_text('{"sampling": {"num_inference_steps": 20, "guidance_scale": 1.5}}')
    (tmp_path / "prompts.csv").write_text("id,prompt,label,rung\np,a cat,base,\n")
    monkeypatch.setattr(bundled, "bundled", lambda: bundled.Testbed(folder=tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert asked(["demo"]).command() == "amnestic demo --out runs/demo"
    assert asked(["demo", "--full"]).command() == "amnestic demo --out runs/demo --full"
    quick = ["demo", "--out", str(tmp_path / "my run"), "--quick"]
    assert asked(quick).command() == f"amnestic demo --out '{tmp_path.name}/my run' --quick"
    monkeypatch.chdir(tmp_path)
    assert asked(quick).command() == "amnestic demo --out 'my run' --quick"


def test_the_folder_of_the_package_is_shown_as_the_command_that_prints_it():
    home = bundled_folder()
    request = AuditRequest(
        model=f"{home}/pipeline", prompts=home / "prompts.csv", references=home, out=Path("out"),
        clip=f"local-dir:{home}/descriptors/clip-mini",
    )  # fmt: skip
    command = request.command()
    assert str(home) not in command
    assert command.startswith('amnestic audit "$(amnestic testbed path)"/pipeline --prompts ')
    script = f"amnestic() {{ [ $1 = testbed ] && echo '{home}' || printf '%s\\n' \"$@\"; }}\n{request.command()}"
    words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[1] == request.model
    assert {str(request.prompts), str(home), request.clip} <= set(words)


def test_the_command_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    request = AuditRequest(
        model="/srv/models/team/mine", prompts=tmp_path / "here/lists/a.csv", references=Path("../far/originals"),
        out=Path("out"), clip="local-dir:/srv/clip/mini", sscd_weights=Path(f"{bundled_folder()}-2/a b"),
    )  # fmt: skip
    words = shlex.split(request.command())
    assert words[2] == "team/mine"
    assert words[words.index("--prompts") + 1] == "lists/a.csv"
    assert words[words.index("--references") + 1] == "far/originals"
    assert words[words.index("--out") + 1] == "out"
    assert words[words.index("--clip") + 1] == "local-dir:clip/mini"
    assert words[words.index("--sscd-weights") + 1] == f"{bundled_folder().name}-2/a b"


def test_path_for_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = (".", "a/../b", str(tmp_path / "x" / "y.csv"), "../z.csv", "/one", "/")
    assert [path_for_others(p) for p in given] == [".", "b", "x/y.csv", f"{tmp_path.parent.name}/z.csv", "one", ""]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_leak_rate": 5.0}, "--max-leak-rate 5: expected a share between 0 and 1; 5 % is 0.05"),
        ({"max_leak_rate": -0.1}, "--max-leak-rate -0.1: expected a share between 0 and 1; correct it"),
        ({"max_leak_rate": float("nan")}, "--max-leak-rate nan: expected a share"),
        ({"threshold": 70.0}, "--threshold 70: expected a cosine between -1 and 1"),
        ({"threshold": float("nan")}, "--threshold nan: expected a cosine"),
        ({"sampling": Sampling(guidance_scale=float("inf"))}, "--guidance-scale inf: expected a number from 0 on"),
        ({"sampling": Sampling(guidance_scale=float("nan"))}, "--guidance-scale nan: expected"),
        ({"sampling": Sampling(guidance_scale=-1.0)}, "--guidance-scale -1: expected"),
        ({"n_seeds": 0}, "at least 1 seed"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(change, sentence):
    with pytest.raises(InputError) as refused:
        replace(LEAST, **change).check()
    assert sentence in str(refused.value)


def test_values_at_the_ends_of_their_ranges_are_taken():
    for limit, threshold, guidance in ((0.0, -1.0, 0.0), (1.0, 1.0, 100.0)):
        replace(LEAST, max_leak_rate=limit, threshold=threshold, sampling=Sampling(guidance_scale=guidance)).check()


def test_name_for_others(tmp_path, monkeypatch):
    (tmp_path / "data" / "pipeline").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data")
    for given in (str(tmp_path / "data" / "pipeline"), "pipeline", "./pipeline", "../data/pipeline/"):
        assert name_for_others(given) == "data/pipeline"
    assert name_for_others("owner/name") == "owner/name"
    assert name_for_others("/model") == "model"
    assert name_for_others(str(bundled_folder() / "twin")) == "amnestic testbed/twin"
