"""Every stage leaves a run sealed, and none of them makes right what somebody changed."""

import shutil
from dataclasses import replace

import pytest

from amnestic import stages
from amnestic.attacks.extraction import CliqueExtraction
from amnestic.core.errors import StoreError
from amnestic.core.seal import check, run_digest, sealed
from amnestic.core.store import Run
from amnestic.stages import sealing
from amnestic.stages.surrogates import Wanted

FEW = {"r": 0.2, "tau": 2}
SEARCH = {"steps": 2, "draws": 2}


def whole(folder):
    found = check(folder)
    return not found.differences and not found.log_lines


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def audited(request_of, kept, tmp_path_factory):
    """An audit with a threshold that everything exceeds, so that every stage has something to do; drawn once."""
    request = replace(request_of, threshold=-1.0)
    if "run" not in kept:
        stages.audit(request)
        kept["run"] = shutil.copytree(request.out, tmp_path_factory.mktemp("kept") / "run")
    else:
        shutil.copytree(kept["run"], request.out)
    return request


def commands(request, folder):
    """Every stage that works on a finished audit; the later ones need what the earlier ones left."""
    judged = {"descriptor": "sscd-mini", "sscd_weights": request.sscd_weights, "device": "cpu"}
    return {
        "locate": lambda: stages.locate(stages.LocateRequest(run=request.out, options=FEW, device="cpu")),
        "prune": lambda: stages.prune(stages.PruneRequest(run=request.out, out=folder / "pruned", device="cpu")),
        "extract": lambda: stages.extract(request.out, CliqueExtraction(clique=2)),
        "attack": lambda: stages.attack(
            stages.AttackRequest(
                run=request.out, references=request.references, options=SEARCH, keep=(1,), random=False, **judged
            )
        ),
        "finetune": lambda: stages.finetune(
            stages.FinetuneRequest(
                run=request.out, out=folder / "tuned", references=request.references, attack_options=SEARCH,
                options={"steps": 1, "forget_rows": 2, "retain_rows": 2}, surrogates_from=request.model,
                surrogates=Wanted(n=1, below=2.0), **judged,
            )
        ),
    }  # fmt: skip


def test_after_each_stage_the_run_is_whole_and_issuing_it_again_changes_nothing(audited, tmp_path):
    assert whole(audited.out)
    before = sealed(audited.out)
    for name, command in commands(audited, tmp_path).items():
        command()
        assert whole(audited.out), name
        after = sealed(audited.out)
        assert {k: v for k, v in after.items() if k in before and k != "events.jsonl"} == {
            k: v for k, v in before.items() if k != "events.jsonl"
        }, f"{name} changed what another stage wrote"
        assert len(after) > len(before), name
        told = run_digest(audited.out)
        command()
        assert run_digest(audited.out) == told, name
        before = after


def test_a_stage_that_is_killed_before_it_seals_is_repaired_by_issuing_it_again(audited, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    for name, command in commands(audited, tmp_path).items():
        with monkeypatch.context() as patched:
            patched.setattr(sealing, "seal", killed)
            with pytest.raises(KeyboardInterrupt):
                command()
        assert not whole(audited.out), name
        command()
        assert whole(audited.out), name


def test_a_stage_refuses_a_run_that_somebody_changed_and_keeps_what_it_made(audited):
    image = "images/w0/0.png"
    sums = sealed(audited.out)
    shutil.copy(audited.out / "images/w1/0.png", audited.out / image)
    with pytest.raises(StoreError, match=rf"{image}: changed"):
        stages.locate(stages.LocateRequest(run=audited.out, options=FEW, device="cpu"))
    assert Run.open(audited.out).records("locate")
    assert sealed(audited.out)[image] == sums[image]
    assert [d.name for d in check(audited.out).differences] == [image]
