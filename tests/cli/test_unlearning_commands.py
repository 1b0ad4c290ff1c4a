"""The commands from an audit to an edited model and back, as a person types them."""

import subprocess
import sys
from dataclasses import replace

import pytest

from amnestic import stages
from amnestic.core.registry import methods


def amnestic(*args):
    return subprocess.run(
        [sys.executable, "-m", "amnestic", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def audited(request_of):
    stages.audit(replace(request_of, threshold=-1.0))
    return request_of


def test_from_an_audit_to_an_edited_model_and_back(audited, tmp_path):
    done = amnestic("locate", audited.out, "-o", "r=0.2", "-o", "tau=2", "--part", "1/2", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "found: 2 works, 2 controls" in done.stdout
    done = amnestic("prune", audited.out, "--out", tmp_path / "edited", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "weights of the U-Net changed" in done.stdout
    done = amnestic(
        "audit", tmp_path / "edited", "--prompts", audited.prompts, "--references", audited.references,
        "--out", tmp_path / "after", "--seeds", "2", "--num-inference-steps", "2", "--guidance-scale", "2",
        "--descriptor", "sscd-mini", "--sscd-weights", audited.sscd_weights, "--threshold", "-1",
        "--before", audited.out, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'id="before-after"' in (tmp_path / "after" / "report.html").read_text()
    done = amnestic(
        "restore", tmp_path / "edited", "--run", audited.out, "--out", tmp_path / "again", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert "weights set back" in done.stdout
    done = amnestic("extract", audited.out, "--clique", "2", "--distance", "1")
    assert done.returncode == 0, done.stderr
    assert "6 of 6 prompts claimed" in done.stdout
    done = amnestic("locate", audited.out, "--analyze", "--sets", "2", "--set-size", "1", "--transfer-seeds", "0",
                    "--device", "cpu")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "p over all layers together" in done.stdout


@pytest.mark.parametrize("family", ["localizer", "mitigation"])
def test_list_shows_every_method_with_its_settings(family):
    done = amnestic("list", family)
    assert done.returncode == 0
    for name in methods(family):
        assert name.split("-")[0] in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["locate", "{none}"], "holds no run"),
        (["locate", "{run}", "--method", "nimo"], "did you mean nemo?"),
        (["locate", "{run}", "-o", "r"], "expected a setting such as r=0.1, got r"),
        (["locate", "{run}", "-o", "r=2"], "r must lie in (0, 1]"),
        (["locate", "{run}", "--part", "3/2"], "expected a part such as 1/2"),
        (["locate", "{run}", "--part", "half"], "expected a part such as 1/2, got half"),
        (
            ["locate", "{run}", "--controls", "held-out"],
            "'held-out' is not one of 'base', 'heldout', 'both'; did you mean heldout?",
        ),
        (
            ["locate", "{run}", "--analyze", "--controls", "heldout"],
            "the audit drew none; label some of the list heldout",
        ),
        (["prune", "{run}", "--out", "{out}"], "nothing was located in"),
        (["prune", "{run}", "--out", "{out}", "--conceal", "--method", "zero-units"], "give one of them"),
        (["restore", "{none}", "--run", "{run}", "--out", "{out}"], "give a folder that amnestic prune wrote"),
        (["extract", "{none}"], "holds no run"),
        (["list", "detectors"], "'detectors' is not one of 'localizer', 'mitigation', 'attack', 'finetuning'"),
    ],
)
def test_mistakes_end_in_one_sentence(audited, tmp_path, arguments, sentence):
    (tmp_path / "none").mkdir()
    names = {"run": audited.out, "none": tmp_path / "none", "out": tmp_path / "out"}
    done = amnestic(*(a.format(**names) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()
