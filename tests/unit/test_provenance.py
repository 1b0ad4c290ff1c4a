"""What a run says of where it comes from: enough to repeat it, no paths, and nothing that decides its identity."""

import hashlib
import json
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from amnestic.core import provenance as module
from amnestic.core.provenance import commit_of, package_commit, provenance
from amnestic.core.store import Run
from amnestic.model.origin import model_files

GIT = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def test_it_names_code_machine_and_switches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = provenance(torch.device("cpu"))
    assert found["packages"]["torch"] == version("torch")
    assert found["device"]["type"] == "cpu"
    assert found["device"]["name"]
    assert found["threads"] == torch.get_num_threads()
    assert found["determinism"]["deterministic_algorithms"] is torch.are_deterministic_algorithms_enabled()
    assert found["code"]["working directory"] == "not known"
    text = json.dumps(found)
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert str(Path(module.__file__).parents[2]) not in text


@GIT
def test_commit_and_whether_a_file_differs(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "one")
    clean = commit_of(tmp_path)
    assert clean["dirty"] is False
    assert len(clean["commit"]) in (40, 64)
    (tmp_path / "new.txt").write_text("not tracked")
    assert commit_of(tmp_path) == clean
    (tmp_path / "a.txt").write_text("2")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a hook of another checkout
    assert commit_of(tmp_path) == clean | {"dirty": True}


@pytest.mark.parametrize("broken", [None, "/bin/false", "/nowhere/git"])
def test_without_git_nothing_is_known(monkeypatch, broken):
    monkeypatch.setattr(module.shutil, "which", lambda _: broken)
    assert package_commit() == commit_of(Path.cwd()) == "not known"


def test_git_that_hangs_is_not_waited_for(monkeypatch, tmp_path):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(module.shutil, "which", lambda _: str(slow))
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    assert commit_of(tmp_path) == "not known"


def test_it_decides_nothing(tmp_path):
    one = Run.start(tmp_path / "one", {"a": 1}, provenance=lambda: {"device": "x", "command": "amnestic audit"})
    other = Run.start(tmp_path / "other", {"a": 1})
    assert one.manifest()["provenance"] == {"device": "x", "command": "amnestic audit"}
    assert one.manifest()["digest"] == other.manifest()["digest"]
    again = Run.start(tmp_path / "one", {"a": 1}, provenance=lambda: pytest.fail("asked for a run that is there"))
    assert again.manifest() == one.manifest()


class TestModelFiles:
    def test_every_file_that_is_read(self, tiny_pipeline):
        found = model_files(str(tiny_pipeline))
        assert {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"} <= set(found["files"])
        assert {n.split("/")[0] for n in found["files"] if n.endswith(".safetensors")} == {
            "unet",
            "vae",
            "text_encoder",
        }
        for name, told in found["files"].items():
            assert hashlib.sha256((tiny_pipeline / name).read_bytes()).hexdigest() == told
        assert found["commit"] is None

    def test_only_the_weights_that_are_loaded(self, tiny_copy):
        unet = tiny_copy / "unet"
        for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin", ".hidden"):
            (unet / name).write_bytes(b"x")
        (tiny_copy / "safety_checker").mkdir()
        (tiny_copy / "safety_checker" / "config.json").write_text("{}")

        def names(**how):
            files = model_files(str(tiny_copy), **how)["files"]
            return {n for n in files if n.startswith(("unet", "safety")) and "config" not in n}

        assert names() == {"unet/diffusion_pytorch_model.safetensors"}
        assert names(variant="fp16") == {"unet/diffusion_pytorch_model.fp16.safetensors"}
        assert names(allow_pickle=True) == {"unet/diffusion_pytorch_model.safetensors"}
        (unet / "diffusion_pytorch_model.safetensors").unlink()
        (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
        assert names() == set()
        assert names(allow_pickle=True) == {"unet/diffusion_pytorch_model.bin"}

    def test_a_checkpoint_in_one_file_and_its_settings(self, tiny_pipeline, tmp_path):
        file = tmp_path / "one.safetensors"
        file.write_bytes(b"weights")
        alone = model_files(str(file))["files"]
        assert alone == {"one.safetensors": hashlib.sha256(b"weights").hexdigest()}
        found = model_files(str(file), config=tiny_pipeline)["files"]
        assert {"config/model_index.json", "config/unet/config.json"} < set(found)
        assert [name for name in found if name.endswith(".safetensors")] == ["one.safetensors"]

    def test_a_hub_model_in_the_cache_tells_its_commit(self, tiny_pipeline, tmp_path, monkeypatch):
        commit = "a" * 40
        snapshot = tmp_path / "models--some--model" / "snapshots" / commit
        shutil.copytree(tiny_pipeline, snapshot)
        (tmp_path / "models--some--model" / "refs").mkdir()
        (tmp_path / "models--some--model" / "refs" / "main").write_text(commit)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        found = model_files("some/model")
        assert found == {"files": model_files(str(tiny_pipeline))["files"], "commit": commit}
        assert model_files("some/other") == {"files": {}, "commit": None}


@GIT
@pytest.mark.parametrize("how", ["filter", "include", "submodule"])
def test_no_program_that_a_checkout_names_is_started(tmp_path, how):
    def git(*words, place=tmp_path):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(
            ["git", "-C", place, *who, "-c", "protocol.file.allow=always", *words], check=True, capture_output=True
        )

    ran, place = tmp_path / "ran", tmp_path
    program = f"sh -c 'touch {ran}; cat'"
    git("init")
    if how == "submodule":
        inner = tmp_path.with_name(tmp_path.name + "-inner")
        inner.mkdir()
        git("init", place=inner)
        git("commit", "--allow-empty", "-m", "one", place=inner)
        git("submodule", "add", str(inner), "sub")
        place = tmp_path / "sub"
    (place / "a.txt").write_text("1")
    (place / ".gitattributes").write_text("* filter=evil")
    git("add", "a.txt", ".gitattributes", place=place)
    git("commit", "-m", "one", place=place)
    if how == "submodule":
        git("add", "sub")
        git("commit", "-m", "two")
    if how == "include":
        (tmp_path / "more").write_text(f'[filter "evil"]\n\tclean = "{program}"\n')
        git("config", "include.path", str(tmp_path / "more"))
    else:
        git("config", "filter.evil.clean", program, place=place)
    (place / "a.txt").write_text("2")
    found = commit_of(tmp_path)
    assert not ran.exists()
    assert found["dirty"] == (False if how == "submodule" else "not known")
