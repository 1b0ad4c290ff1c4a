"""Shares of |activation x gradient| of known originals, against a slow implementation of the formula."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.methods import Case
from amnestic.core.records import Prompt
from amnestic.core.registry import build
from amnestic.core.seeds import generator
from amnestic.model.target import PipelineTarget

SHAPE = (24, 16, 16)
ROUNDING = 1e-6
"""Bound on differences of a rise; 2.3e-7 was measured, where the largest rises of a layer are 6e-3 to 4e-2."""


def prompts(prefix, *texts):
    return tuple(Prompt(id=f"{prefix}{i}", prompt=text) for i, text in enumerate(texts))


MEMORIZED = prompts("m", "a red cat on a blue mat", "two dogs")
CONTROLS = prompts("c", "a mat", "a red dog under a tree", "two cats")
ORIGINALS = {p.id: torch.randn(SHAPE, generator=generator(0, "original", p.id)) for p in (*MEMORIZED, *CONTROLS)}
CASE = Case(memorized=MEMORIZED, controls=CONTROLS, originals=ORIGINALS)


def localizer(**options):
    return build("localizer", "gradient-attribution", {"n_timesteps": 2} | options)


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


def literal(target, prompt, *, n_timesteps, n_noises, seed):
    """Shares of one prompt: rows one at a time, hooks by hand, gradients of everything."""
    unet, names = target.pipeline.unet, [s.name for s in target.sites("ffn")]
    totals, tokens = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for draw in range(n_timesteps * n_noises):
        t = int(1000 * (0.5 + draw // n_noises) / n_timesteps)
        a = target.pipeline.scheduler.alphas_cumprod[t]
        noise = torch.randn(SHAPE, generator=generator(seed, "gradient-attribution", prompt.id, str(draw)))
        x = (a.sqrt() * ORIGINALS[prompt.id] + (1 - a).sqrt() * noise)[None]
        kept = {}

        def hold(module, inputs, kept=kept):
            inputs[0].retain_grad()
            kept[module] = inputs[0]

        hooks = [unet.get_submodule(name).register_forward_pre_hook(hold) for name in names]
        velocity = unet(x, t, encoder_hidden_states=target.encode([prompt.prompt])).sample
        (a.sqrt() * velocity + (1 - a).sqrt() * x - noise).square().mean().backward()
        for hook in hooks:
            hook.remove()
        for name in names:
            activation = kept[unet.get_submodule(name)]
            totals[name] = totals[name] + (activation * activation.grad).abs().detach()[0].sum(dim=0)
            tokens[name] += activation.shape[1]
    return {name: totals[name] / tokens[name] / (totals[name] / tokens[name]).sum() for name in names}


@pytest.mark.parametrize(("n_timesteps", "n_noises", "seed"), [(1, 1, 0), (3, 2, 5)])
def test_neurons_are_those_whose_share_rises_most(target, tiny_pipeline, n_timesteps, n_noises, seed):
    how = {"n_timesteps": n_timesteps, "n_noises": n_noises, "seed": seed}
    found = localizer(share=0.1, **how)(target, CASE)
    other = PipelineTarget.load(tiny_pipeline)  # backward() leaves gradients in its parameters
    other.pipeline.unet.requires_grad_(True)
    ours, theirs = ([literal(other, p, **how) for p in part] for part in (MEMORIZED, CONTROLS))
    for site in found.units.sites:
        rise = sum(s[site.name] for s in ours) / len(ours) - sum(s[site.name] for s in theirs) / len(theirs)
        torch.testing.assert_close(found.tensors[f"rise.{site.name}"], rise, atol=ROUNDING, rtol=0)
        wanted = {int(i) for i in rise.topk(int(0.1 * site.size)).indices if rise[i] > 0}
        assert set(found.units.masks[site.name].nonzero().flatten().tolist()) == wanted
    assert found.passes == 5 * n_timesteps * n_noises * 3
    assert found.outcome == "found"


def test_the_batch_size_does_not_matter(target):
    one, four = (localizer(batch_size=n)(target, CASE) for n in (1, 4))
    for name, rise in one.tensors.items():
        torch.testing.assert_close(four.tensors[name], rise, atol=ROUNDING, rtol=0)


def test_the_scale_of_a_prompts_gradient_does_not_matter(target):
    """Shares of every prompt sum to 1, so rises of every layer sum to 0."""
    for rise in localizer()(target, CASE).tensors.values():
        assert float(rise.sum()) == pytest.approx(0, abs=1e-5)
        assert float(rise.abs().max()) > 1e-5


def test_the_seed_decides_the_noise(target):
    one, same, other = (localizer(seed=seed)(target, CASE).tensors for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.allclose(one[name], other[name], atol=1e-4) for name in one)


@contextmanager
def louder(target, site, neuron, texts, factor):
    """One neuron says `factor` times as much in rows of some prompts."""
    unet, known, loud = target.pipeline.unet, target.encode(texts), []

    def notice(_module, _args, kwargs):
        cond = kwargs["encoder_hidden_states"]
        loud[:] = [any(torch.allclose(row, k, atol=1e-5) for k in known) for row in cond]

    def speak(_module, inputs):
        factors = torch.ones(len(loud), 1, site.size)
        factors[torch.tensor(loud), :, neuron] = factor
        return (inputs[0] * factors,)

    hooks = [
        unet.register_forward_pre_hook(notice, with_kwargs=True),
        unet.get_submodule(site.name).register_forward_pre_hook(speak),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("place", [0, 4, -1])
def test_a_planted_neuron_is_found(target, place):
    site, neuron = target.sites("ffn")[place], 7
    quiet = localizer(share=1 / site.size)(target, CASE)
    with louder(target, site, neuron, [p.prompt for p in MEMORIZED], 100):
        found = localizer(share=1 / site.size)(target, CASE)
    assert found.units.masks[site.name].nonzero().flatten().tolist() == [neuron]
    assert found.tensors[f"rise.{site.name}"][neuron] > 10 * quiet.tensors[f"rise.{site.name}"].abs().max()
    with louder(target, site, neuron, [p.prompt for p in CONTROLS], 100):
        assert not localizer()(target, CASE).units.masks[site.name][neuron]


def test_the_same_on_both_sides_is_nothing(target):
    same = replace(CASE, controls=MEMORIZED)
    assert localizer()(target, same).outcome == "found nothing"


def test_prompts_without_an_original_are_told(target):
    some = replace(CASE, originals={name: ORIGINALS[name] for name in ("m1", "c0", "c2")})
    found = localizer()(target, some)
    assert found.notes["without original"] == ["m0", "c1"]
    assert found.passes == 3 * 2 * 3
    alone = localizer()(target, replace(some, memorized=MEMORIZED[1:], controls=(CONTROLS[0], CONTROLS[2])))
    for name, rise in alone.tensors.items():
        torch.testing.assert_close(found.tensors[name], rise, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("ids", [(), ("m0",), ("c0", "c1")])
def test_originals_of_both_sides_are_needed(target, ids):
    with pytest.raises(InputError, match="give `originals`"):
        localizer()(target, replace(CASE, originals={name: ORIGINALS[name] for name in ids}))


def test_latents_of_another_size_are_refused(target):
    with pytest.raises(InputError, match=r"\(24, 16, 16\) for the original of c1, got \(24, 8, 16\)"):
        localizer()(target, replace(CASE, originals=ORIGINALS | {"c1": torch.zeros(24, 8, 16)}))


def test_latents_that_are_not_finite_are_told(target):
    with pytest.raises(NotFinite, match="rise"):
        localizer()(target, replace(CASE, originals=ORIGINALS | {"m0": torch.full(SHAPE, torch.nan)}))


@pytest.mark.parametrize(
    "options", [{"share": 0}, {"share": 1.5}, {"n_timesteps": 0}, {"n_noises": 0}, {"batch_size": 0}]
)
def test_settings_without_meaning_are_refused(options):
    with pytest.raises(InputError, match="refuses its settings"):
        localizer(**options)


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_behind(tiny_pipeline, frozen):
    target = PipelineTarget.load(tiny_pipeline)
    unet = target.pipeline.unet.requires_grad_(not frozen)
    flags = {name: p.requires_grad for name, p in unet.named_parameters()}
    originals = {name: x.clone() for name, x in ORIGINALS.items()}
    with torch.no_grad():
        localizer()(target, replace(CASE, originals=originals))
        assert not torch.is_grad_enabled()
    assert {name: p.requires_grad for name, p in unet.named_parameters()} == flags
    assert all(p.grad is None for p in unet.parameters())
    assert not [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    assert all(torch.equal(x, ORIGINALS[name]) and not x.requires_grad for name, x in originals.items())


def test_an_exception_leaves_nothing_behind(target, monkeypatch):
    def fail(*_):
        raise KeyError

    monkeypatch.setattr(PipelineTarget, "predict", fail)
    with pytest.raises(KeyError):
        localizer()(target, CASE)
    unet = target.pipeline.unet
    assert not [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
