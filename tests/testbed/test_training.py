import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from amnestic.core.seeds import seeded_init
from amnestic.testbed.training import MatrixMuon, Schedule, Training, optimisers

SHORT = Schedule(steps=14, batch=8, lr=0.05, ema=0.9, warmup=3)


class Killed(Exception):
    """Stands for whatever ends a process."""


def network(name="net"):
    with seeded_init(0, name):
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Linear(6, 1))


def fit(folder, schedule=SHORT, *, module=None, killed_at=None, save_every_s=1e9, watch=None):
    """Train a small network, or be killed when the loss is asked for the n-th time."""
    module, calls, told = module or network(), [], []

    def loss(rng):
        if len(calls) == killed_at:
            raise Killed
        if watch is not None:
            watch.append({k: v.clone() for k, v in module.state_dict().items()})
        x = torch.randn(schedule.batch, 3, generator=rng)
        calls.append(x)
        return (module(x).float() - x.sum(dim=1, keepdim=True)).square().mean()

    training = Training(module, schedule, name="net", seed=7, folder=folder)
    with contextlib.suppress(Killed):
        training.run(loss, lambda *line: told.append(line), save_every_s=save_every_s)
    return module, calls, told


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(("ema", "muon"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.02)])
def test_killed_and_resumed_gives_bitwise_what_an_uninterrupted_run_gives(tmp_path, ema, muon):
    schedule = Schedule(steps=14, batch=8, lr=0.05, ema=ema, warmup=3, muon=muon)
    straight, calls, _ = fit(tmp_path / "straight", schedule)
    assert len(calls) == 14

    fit(tmp_path / "broken", schedule, killed_at=5, save_every_s=-1)  # saved after every step
    _, lost, _ = fit(tmp_path / "broken", schedule, module=network("other"), killed_at=3)  # saved nothing
    resumed, last, _ = fit(tmp_path / "broken", schedule, module=network("another"))
    assert len(last) == 9
    assert torch.equal(lost[0], last[0])
    assert_same(straight.state_dict(), resumed.state_dict())
    files = [load_file(tmp_path / folder / "net.safetensors") for folder in ("straight", "broken")]
    assert_same(*files)
    assert any(k.startswith("optimiser.0.0.exp_avg") for k in files[0])
    assert any(k.startswith("average.") for k in files[0]) == bool(ema)
    assert any(k.endswith("momentum_buffer") for k in files[0]) == bool(muon)


def test_every_step_draws_its_own_batch(tmp_path):
    _, calls, _ = fit(tmp_path)
    assert len({x.numpy().tobytes() for x in calls}) == 14


def test_a_finished_training_is_not_repeated(tmp_path):
    first, _, _ = fit(tmp_path)
    second, calls, _ = fit(tmp_path, module=network("other"))
    assert calls == []
    assert_same(first.state_dict(), second.state_dict())


def test_the_average_of_the_weights_is_kept(tmp_path):
    live: list[dict[str, torch.Tensor]] = []
    module, _, _ = fit(tmp_path, watch=live)
    saved = load_file(tmp_path / "net.safetensors")
    live.append({k.removeprefix("live."): v for k, v in saved.items() if k.startswith("live.")})
    expected = live[0]["0.weight"]
    for step, weights in enumerate(live[1:], start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights["0.weight"]
    torch.testing.assert_close(module.state_dict()["0.weight"], expected)
    assert not torch.equal(module.state_dict()["0.weight"], live[-1]["0.weight"])
    assert module.state_dict()["1.num_batches_tracked"] == 14


def test_without_an_average_the_last_weights_are_kept(tmp_path):
    module, _, _ = fit(tmp_path, Schedule(steps=4, batch=8, lr=0.05, warmup=1))
    saved = load_file(tmp_path / "net.safetensors")
    assert_same(module.state_dict(), {k.removeprefix("live."): v for k, v in saved.items() if k.startswith("live.")})


def test_training_lowers_the_loss_and_tells_how_far_it_is(tmp_path):
    schedule = Schedule(steps=60, batch=8, lr=0.05, warmup=3)
    module, _, told = fit(tmp_path, schedule)
    name, done, steps, running = told[-1]
    assert (name, done, steps) == ("net", 60, 60)
    assert running < told[0][3]
    assert not module.training


def test_frozen_weights_stay_as_they_are(tmp_path):
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    fit(tmp_path, module=module)
    assert torch.equal(module[0].weight, before)


def test_only_whole_checkpoints_are_left(tmp_path):
    fit(tmp_path, killed_at=5, save_every_s=-1)
    assert [f.name for f in tmp_path.iterdir()] == ["net.safetensors"]
    assert load_file(tmp_path / "net.safetensors")["done"] == 5


def test_the_rate_rises_stays_and_falls():
    schedule = Schedule(steps=1000, batch=1, lr=1.0, fall=0.4, warmup=50)
    rates = [2 * schedule.share(step) for step in range(1001)]
    assert rates[0] == pytest.approx(2 / 50)
    assert rates[49:601] == pytest.approx([2.0] * 552)
    assert rates[800] == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert rates[:50] == sorted(rates[:50])
    assert rates[600:] == sorted(rates[600:], reverse=True)


@settings(max_examples=60)
@given(
    steps=st.integers(1, 5000), share=st.floats(0, 1), fall=st.floats(0, 1), warmup=st.integers(1, 200)
)  # fmt: skip
def test_the_rate_stays_between_nothing_and_its_highest(steps, share, fall, warmup):
    schedule = Schedule(steps=steps, batch=1, lr=0.1, fall=fall, warmup=warmup)
    step = int(share * (steps - 1))
    assert 0 < schedule.share(step) <= 1


def test_muon_takes_matrices_and_kernels_between_the_edges():
    module = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 3), "inner": nn.Conv2d(4, 6, 3), "last": nn.Linear(6, 5)})
    module["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    both = optimisers(module, Schedule(steps=1, batch=1, lr=0.1, muon=0.3))
    sizes = [[tuple(p.shape) for p in o.param_groups[0]["params"]] for o in both]
    assert sizes == [[(4, 3, 3, 3), (4,), (6,), (5,)], [(6, 36), (5, 6)]]
    assert [o.param_groups[0]["initial_lr"] for o in both] == [0.1, 0.3]
    assert len(optimisers(module, Schedule(steps=1, batch=1, lr=0.1))) == 1


def test_muon_moves_a_kernel_along_the_orthogonal_factor_of_its_gradient():
    rng = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(6, 4, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=rng)
    left, _, right = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
    MatrixMuon([weight], lr=0.1).step()
    moved = -weight.detach().flatten(1)
    cosine = (moved * (left @ right)).sum() / moved.norm() / (left @ right).norm()
    assert cosine > 0.95  # five Newton-Schulz steps leave singular values between 0.7 and 1.2
    assert moved.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.25)  # as large as a step of AdamW


def test_muon_leaves_weights_without_a_gradient():
    weight = nn.Parameter(torch.ones(3, 3))
    MatrixMuon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(3, 3))
