"""What each baseline minimises, against literal computations, and what redirection under any conditioning adds."""

import math
from dataclasses import replace

import pytest
import torch

from amnestic.core.attacks import Goal
from amnestic.core.counted import Counted
from amnestic.core.errors import InputError
from amnestic.core.finetuning import Lesson, Pair, Part
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.registry import build
from amnestic.mitigations.finetune.concept_ablation import ConceptAblation
from amnestic.mitigations.finetune.errors import direction
from amnestic.mitigations.finetune.esd import partly_drawn
from amnestic.mitigations.finetune.esd_u import EsdU
from amnestic.mitigations.finetune.esd_x import EsdX
from amnestic.mitigations.finetune.gradients import Gradients
from amnestic.mitigations.finetune.guarded_retrack import GuardedRetrack
from amnestic.mitigations.finetune.loop import finetune
from amnestic.mitigations.finetune.negative_gradient import NegativeGradient
from amnestic.mitigations.finetune.neighbours import nearest, redirected
from amnestic.mitigations.finetune.pool import KINDS, moved, natural_unit
from amnestic.mitigations.finetune.retain_only import RetainOnly
from amnestic.mitigations.finetune.retrack import ReTrack
from amnestic.mitigations.finetune.salience import salient_rows
from amnestic.mitigations.finetune.siss import Siss, importance
from amnestic.model.target import PipelineTarget
from amnestic.model.trainee import TrainedCopy

ONLY_FORGET = Part(step=0, forget=(0, 1, 2))
BOTH = Part(step=0, forget=(0, 1, 2), retain=(0, 1))


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@pytest.fixture(scope="module")
def lesson(target):
    rng = torch.Generator().manual_seed(0)

    def latents(*n):
        return torch.randn((*n, *target.noise_shape()), generator=rng)

    goals = [Goal(prompt=Prompt(id=f"w{i}", prompt=f"work {i}", work=f"w{i}"), original=latents()) for i in range(3)]
    base = [Prompt(id=f"b{i}", prompt=f"a scene {i}", label="base") for i in range(4)]
    return Lesson(
        forget=tuple(goals), surrogates={g.id: latents(2) for g in goals},
        retain=tuple(Pair(prompt=p, latents=latents()) for p in base), natural=tuple(base),
        sampling=Sampling(num_inference_steps=4),
    )  # fmt: skip


@pytest.fixture
def copy(target):
    """A copy that has already learned something, so that it is not the model before."""
    made, rng = TrainedCopy.of(target), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.trained.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng) * weight.abs().mean())
    return made


class Spy:
    """A model that remembers what it was asked."""

    def __init__(self, model):
        self.model, self.asked = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def predict(self, x, t, cond):
        self.asked.append((x.detach().clone(), t.clone(), cond.detach().clone()))
        return self.model.predict(x, t, cond)


def of(method, copy, target, lesson, part=ONLY_FORGET, kept=None):
    """Losses, and what both models were asked."""
    trainee, frozen = Spy(copy), Spy(target)
    return method.losses(trainee, frozen, lesson, part, kept or {}), trainee.asked, frozen.asked


def levels(target, t):
    a = target.pipeline.scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return a.sqrt(), (1 - a).sqrt()


def originals(method, lesson, part=ONLY_FORGET):
    return torch.stack([lesson.forget[i].original for i in method.goals_of(lesson, part)])


def added_noise(target, x, t, x0):
    a, rest = levels(target, t)
    return (x - a * x0) / rest


def mean(error):
    return error.square().mean(dim=(1, 2, 3))


class TestRetainOnly:
    def test_is_the_denoising_loss_of_ordinary_pairs_and_nothing_else(self, copy, target, lesson):
        method = RetainOnly(weighting="epsilon")
        found, asked, before = of(method, copy, target, lesson, BOTH)
        ((x, t, cond),) = asked
        pairs = [lesson.retain[i] for i in method.pairs_of(lesson, BOTH)]
        assert torch.equal(cond, target.encode([p.prompt.prompt for p in pairs]))
        noise = added_noise(target, x, t, torch.stack([p.latents for p in pairs]))
        torch.testing.assert_close(found.retain["retain"], mean(copy.predict(x, t, cond) - noise), rtol=1e-3, atol=1e-4)
        assert not found.forget
        assert not before

    def test_captions_are_dropped_as_often_as_asked(self, copy, target, lesson):
        part = Part(step=0, retain=tuple(range(8)))
        for share, texts in ((0.0, 0), (1.0, 8)):
            _, ((_, _, cond),), _ = of(RetainOnly(caption_dropout=share, retain_rows=8), copy, target, lesson, part)
            assert sum(torch.equal(one, target.encode([""])[0]) for one in cond) == texts

    def test_the_error_is_that_of_the_models_own_prediction_by_default(self, copy, target, lesson):
        found, ((_, t, _),), _ = of(RetainOnly(), copy, target, lesson, BOTH)
        plain, _, _ = of(RetainOnly(weighting="epsilon"), copy, target, lesson, BOTH)
        assert target.prediction_type == "v_prediction"
        a, _ = levels(target, t)
        torch.testing.assert_close(found.retain["retain"], plain.retain["retain"] / a.flatten().square())


class TestNegativeGradient:
    def test_is_minus_the_denoising_loss(self, copy, target, lesson):
        method = NegativeGradient(weighting="epsilon", forget_weight=2.0)
        found, asked, before = of(method, copy, target, lesson, BOTH)
        x, t, cond = asked[0]
        noise = added_noise(target, x, t, originals(method, lesson))
        wanted = -2 * mean(copy.predict(x, t, cond) - noise)
        torch.testing.assert_close(found.forget["forget"], wanted, rtol=1e-3, atol=1e-4)
        assert found.retain["retain"].shape == (2,)
        assert not before

    def test_rows_that_are_bad_enough_pull_no_further(self, copy, target, lesson):
        """At first both models agree, so a bound above 1 changes nothing; a model that is far off is not pulled."""
        same = TrainedCopy.of(target)
        free, bound = (NegativeGradient(bound=b) for b in (None, 1.5))
        one, other = (of(m, same, target, lesson)[0].forget["forget"] for m in (free, bound))
        torch.testing.assert_close(one, other)
        with torch.no_grad():
            copy.trained["conv_out.bias"].add_(10.0)
        found = of(bound, copy, target, lesson)[0].forget["forget"]
        (slope,) = torch.autograd.grad(found.sum(), copy.trained["conv_out.bias"])
        torch.testing.assert_close(found, 1.5 * other.detach(), rtol=1e-4, atol=1e-5)
        assert not slope.any()


class TestEsd:
    @pytest.mark.parametrize("latents", ["noised", "frozen", "trainee"])
    def test_aims_beyond_the_empty_prompt(self, copy, target, lesson, latents):
        method = EsdX(negative_guidance=2.0, latents=latents, weighting="epsilon")
        found, asked, _ = of(method, copy, target, lesson)
        x, t, cond = asked[-1]
        own = [lesson.forget[i].prompt.prompt for i in method.goals_of(lesson, ONLY_FORGET)]
        assert torch.equal(cond, target.encode(own))
        with torch.no_grad():
            with_it, without = target.predict(x, t, cond), target.predict(x, t, target.encode([""] * 3))
        wanted = mean(copy.predict(x, t, cond) - (without - 2.0 * (with_it - without)))
        torch.testing.assert_close(found.forget["forget"], wanted, rtol=1e-4, atol=1e-5)

    def test_latents_are_drawings_stopped_on_the_way(self, target, lesson):
        """As the pipeline itself draws with the same noise and guidance."""
        how, goal = Sampling(num_inference_steps=4, guidance_scale=3.0), lesson.forget[0]
        cond, times = target.encode([goal.prompt.prompt]), target.timesteps(how)
        start = torch.randn((1, *target.noise_shape()), generator=torch.Generator().manual_seed(5))
        for stop in (1, 3):
            wanted = target.sample([Unit(goal.id, 0)], [""], how, stop_after=stop, cond=cond, start=start)
            found = partly_drawn(target, start, cond, times, [stop], guidance=3.0)
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        assert torch.equal(partly_drawn(target, start, cond, times, [0], guidance=3.0), start)

    def test_rows_stop_on_their_own_and_cost_what_they_take(self, target, lesson):
        counted, times = Counted(target), target.timesteps(lesson.sampling)
        start = torch.randn((3, *target.noise_shape()), generator=torch.Generator().manual_seed(5))
        cond = target.encode(["a", "b", "c"])
        together = partly_drawn(counted, start, cond, times, [0, 2, 3], guidance=3.0)
        assert counted.cost.forward == 2 * (2 + 3)
        for i, stop in enumerate((0, 2, 3)):
            alone = partly_drawn(target, start[i : i + 1], cond[i : i + 1], times, [stop], guidance=3.0)
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)

    def test_the_two_differ_in_what_learns(self):
        assert EsdX().parameters == "cross-attention"
        assert EsdU().parameters == "not-cross-attention"
        assert replace(EsdX(), parameters="full").losses.__func__ is EsdU().losses.__func__


class TestConceptAblation:
    @pytest.mark.parametrize("teacher", ["trainee", "frozen"])
    def test_matches_the_prediction_under_the_anchor_on_surrogates(self, copy, target, lesson, teacher):
        method = ConceptAblation(weighting="epsilon", teacher=teacher)
        kept = method.refresh(0, copy, target, lesson, [0, 1, 2], {})
        found, asked, before = of(method, copy, target, lesson, kept=kept)
        x, t, cond = asked[-1]
        ((_, _, anchors),) = before if teacher == "frozen" else asked[:1]
        places = method.goals_of(lesson, ONLY_FORGET)
        flat = target.encode([p.prompt for p in lesson.natural]).flatten(1)
        own = target.encode([lesson.forget[i].prompt.prompt for i in places]).flatten(1)
        cosine = torch.nn.functional.normalize(own, dim=1) @ torch.nn.functional.normalize(flat, dim=1).T
        chosen = target.encode([lesson.natural[int(i)].prompt for i in cosine.argmax(dim=1)])
        torch.testing.assert_close(anchors, chosen)
        with torch.no_grad():
            aim = (target if teacher == "frozen" else copy).predict(x, t, anchors)
        wanted = mean(copy.predict(x, t, cond) - aim)
        torch.testing.assert_close(found.forget["forget"], wanted, rtol=1e-4, atol=1e-6)

    def test_noise_based_is_the_denoising_loss_of_surrogates(self, copy, target, lesson):
        method = ConceptAblation(loss_type_reverse="noise-based", weighting="epsilon")
        found, ((x, t, cond),), before = of(method, copy, target, lesson)
        said = copy.predict(x, t, cond)
        for row, place in enumerate(method.goals_of(lesson, ONLY_FORGET)):
            surrogates = lesson.surrogates[lesson.forget[place].id]
            costs = [mean(said[[row]] - added_noise(target, x[[row]], t[[row]], s[None])) for s in surrogates]
            assert any(torch.allclose(found.forget["forget"][row], c, rtol=1e-3, atol=1e-4) for c in costs)
        assert not before
        assert not method.stale(0, lesson)

    def test_no_ordinary_prompt_means_no_anchor(self, target, lesson):
        bare = replace(lesson, natural=())
        with pytest.raises(InputError, match="needs ordinary prompts, got none"):
            ConceptAblation().require_fit(target, bare)
        ConceptAblation(anchor="empty").require_fit(target, bare)


class TestSiss:
    def test_weights_turn_draws_of_the_mixture_into_draws_of_either_image(self):
        """One dimension, where the expectations are integrals: weighted over the mixture as over each Gaussian."""
        x, y, a, rest, lam = 0.7, -0.4, 0.8, 0.6, 0.3
        grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
        density = {v: torch.exp(-0.5 * ((grid - a * v) / rest) ** 2) / (rest * math.sqrt(2 * math.pi)) for v in (x, y)}
        to_keep, to_lose = (((grid - a * v) / rest).reshape(-1, 1, 1, 1) for v in (x, y))
        w_keep, w_lose = importance(to_keep, to_lose, lam)
        mixture, said = (1 - lam) * density[x] + lam * density[y], torch.sin(3 * grid)  # any model
        for weight, v, towards in ((w_keep, x, to_keep), (w_lose, y, to_lose)):
            loss = (said - towards.flatten()) ** 2
            over_mixture = torch.trapezoid(mixture * weight * loss, grid)
            torch.testing.assert_close(over_mixture, torch.trapezoid(density[v] * loss, grid), rtol=1e-9, atol=1e-9)
        assert float(w_keep.max()) <= 1 / (1 - lam) + 1e-9
        assert float(w_lose.max()) <= 1 / lam + 1e-9

    @pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
    def test_weights_of_images_far_apart_are_finite(self, lam):
        near, far = torch.zeros(1, 4, 64, 64), torch.full((1, 4, 64, 64), 30.0)
        for pair in ((near, far), (far, near)):
            weights = torch.stack(importance(*pair, lam))
            assert not weights.isnan().any()
            assert (weights >= 0).all()

    @pytest.mark.parametrize("timesteps", ["full", "last"])
    @pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
    def test_one_prediction_serves_two_weighted_errors(self, copy, target, lesson, lam, timesteps):
        method = Siss(lam=lam, weighting="epsilon", timesteps=timesteps)
        found, ((x, t, cond),), before = of(method, copy, target, lesson)
        lose, said = originals(method, lesson), copy.predict(x, t, cond)
        a, rest = levels(target, t)
        for row, place in enumerate(method.goals_of(lesson, ONLY_FORGET)):
            options = []
            for keep in lesson.surrogates[lesson.forget[place].id]:
                to = [(x[row] - a[row] * v) / rest[row] for v in (keep, lose[row])]
                p = torch.softmax(torch.stack([-0.5 * v.double().square().sum() for v in to]), dim=0)
                weights = (p / ((1 - lam) * p[0] + lam * p[1])).float()
                options.append([w * (said[row] - v).square().sum() for w, v in zip(weights, to, strict=True)])
            told = found.forget["remember"][row], -found.forget["forget"][row]
            assert any(
                all(torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in zip(told, option, strict=True))
                for option in options
            )
        assert not before

    def test_timesteps_follow_the_law(self, copy, target, lesson):
        part, last = Part(step=3, forget=tuple(range(8))), target.train_timesteps - 1
        _, ((_, t, _),), _ = of(Siss(forget_rows=8), copy, target, lesson, part)
        assert t.tolist() == [last] * 8
        _, ((_, t, _),), _ = of(Siss(forget_rows=8, timesteps="full"), copy, target, lesson, part)
        assert len(set(t.tolist())) > 4

    def test_gradient_to_forget_has_the_length_it_shall_have(self, copy, target, lesson):
        for method, wanted in ((Siss(forget_norm=7.0), lambda n: 7.0), (Siss(forget_share=0.1), lambda n: 0.1 * n)):
            weights = list(copy.trained.values())
            gradients = Gradients(weights=weights, method=method)
            gradients.add(method.losses(copy, target, lesson, ONLY_FORGET, {}), ONLY_FORGET)
            norms = gradients.norms()
            remember = [g.clone() for g in gradients.by_term["remember"]]
            gradients.hand_over({})
            rest = torch.cat([(w.grad - g).flatten() for w, g in zip(weights, remember, strict=True)])
            assert float(rest.norm()) == pytest.approx(wanted(norms["remember"]), rel=1e-2)
        assert Siss().balance({"remember": 2.0, "forget": 0.0}) == {"remember": 1.0, "forget": 1.0}


class TestReTrack:
    def test_weights_sum_to_one_and_their_mean_direction_is_a_perfect_models(self):
        """The posterior mean of the noise under images of equal weight, by enumeration of their densities."""
        rng = torch.Generator().manual_seed(0)
        images, x = torch.randn(5, 2, 3, 3, generator=rng), torch.randn(2, 3, 3, generator=rng)
        a, rest = torch.tensor(0.3).reshape(1, 1, 1), torch.tensor(math.sqrt(1 - 0.09)).reshape(1, 1, 1)
        directions, weights = redirected(x, images, a, rest)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-6)
        normal = torch.distributions.Normal(a * images, rest)
        density = normal.log_prob(x.expand_as(images)).sum(dim=(1, 2, 3)).exp()
        clean = (density.reshape(-1, 1, 1, 1) * images).sum(0) / density.sum()
        torch.testing.assert_close((weights.reshape(-1, 1, 1, 1) * directions).sum(0), (x - a * clean) / rest)

    def test_nearest_are_those_of_an_exhaustive_search(self):
        rng = torch.Generator().manual_seed(0)
        others, one = torch.randn(9, 4, 2, 2, generator=rng), torch.randn(4, 2, 2, generator=rng)
        order = sorted(range(9), key=lambda i: float((others[i] - one).norm()))
        assert nearest(one, others, 4).tolist() == order[:4]
        assert nearest(one, others, 20).tolist() == order

    @pytest.mark.parametrize("kept_before", [False, True])
    def test_loss_is_the_weighted_error_towards_neighbours(self, copy, target, lesson, kept_before):
        method = ReTrack(lam=0.25, neighbours=2, with_pairs=True, weighting="epsilon")
        kept = method.refresh(0, copy, target, lesson, [0, 1, 2], {}) if kept_before else {}
        found, asked, _ = of(method, copy, target, lesson, BOTH, kept)
        x, t, cond = asked[0]
        a, rest = levels(target, t)
        said, pairs = copy.predict(x, t, cond), torch.stack([p.latents for p in lesson.retain])
        for row, place in enumerate(method.goals_of(lesson, BOTH)):
            goal = lesson.forget[place]
            pool = sorted([*lesson.surrogates[goal.id], *pairs], key=lambda s: float((s - goal.original).norm()))[:2]
            v = [(x[row] - a[row] * n) / rest[row] for n in pool]
            w = torch.softmax(torch.stack([-0.5 * one.square().sum() for one in v]), dim=0)
            wanted = 0.25 * sum(p * (said[row] - one).square().mean() for p, one in zip(w, v, strict=True))
            torch.testing.assert_close(found.forget["forget"][row], wanted, rtol=1e-3, atol=1e-4)
        whole = RetainOnly(weighting="epsilon", retain_rows=16).losses(copy, target, lesson, BOTH, {}).retain["retain"]
        torch.testing.assert_close(found.retain["retain"], 0.75 * whole)


class TestGuardedRetrack:
    def test_noisy_originals_are_led_to_surrogates(self, copy, target, lesson):
        method = GuardedRetrack(share_original=1.0, weighting="epsilon")
        found, ((x, t, cond),), before = of(method, copy, target, lesson)
        a, rest = levels(target, t)
        said, lose = copy.predict(x, t, cond), originals(method, lesson)
        noise = (x - a * lose) / rest
        assert float(noise.std()) == pytest.approx(1.0, abs=0.1)
        for row, place in enumerate(method.goals_of(lesson, ONLY_FORGET)):
            some = lesson.surrogates[lesson.forget[place].id]
            v = (x[row] - a[row] * some) / rest[row]
            w = torch.softmax(-0.5 * v.square().sum(dim=(1, 2, 3)), dim=0)
            aim = (w.reshape(-1, 1, 1, 1) * v).sum(0)
            wanted = (said[row] - aim).square().mean()
            torch.testing.assert_close(found.forget["forget"][row], wanted, rtol=1e-3, atol=1e-4)
            reach = float(a[row] / rest[row]) * max(float((lose[row] - s).norm()) for s in some)
            assert float((aim - noise[row]).norm()) <= reach * 1.001
        assert not before

    def test_the_aim_may_be_the_model_before_under_another_prompt(self, copy, target, lesson):
        method = GuardedRetrack(aim="other-prompt", weighting="epsilon")
        found, ((x, t, cond),), ((_, _, other),) = of(method, copy, target, lesson)
        ordinary = target.encode([p.prompt for p in lesson.natural])
        assert all(any(torch.allclose(one, p) for p in ordinary) for one in other)
        with torch.no_grad():
            wanted = mean(copy.predict(x, t, cond) - target.predict(x, t, other))
        torch.testing.assert_close(found.forget["forget"], wanted, rtol=1e-4, atol=1e-5)

    def only(self, kind, **options):
        shares = {f"share_{k}": float(k == kind) for k in KINDS}
        return GuardedRetrack(forget_rows=8, **shares, **options)

    def test_each_kind_of_conditioning_is_what_it_says(self, copy, target, lesson):
        part, unit = Part(step=0, forget=tuple(range(8))), natural_unit(target, lesson)
        pool = {f"pool:w{i}": torch.full((2, *target.encode([""]).shape[1:]), float(i)) for i in range(3)}
        shown = {k: of(self.only(k), copy, target, lesson, part, pool)[1][0][2] for k in KINDS}
        places = self.only("prompt").goals_of(lesson, part)
        own = target.encode([lesson.forget[i].prompt.prompt for i in places])
        assert torch.equal(shown["prompt"], own)
        assert torch.equal(shown["adversarial"], torch.stack([pool[f"pool:w{i}"][0] for i in places]))
        assert torch.equal(shown["empty"], target.encode([""] * 8))
        away = (shown["near"] - own).flatten(1).norm(dim=1) / unit
        assert (away > 0.1 * 0.999).all()
        assert (away < 3.0 * 1.001).all()
        assert float(shown["noise"].std()) == pytest.approx(1.0, abs=0.05)
        for row, one in enumerate(shown["other"]):
            assert not torch.allclose(one, own[row])

    def test_kinds_come_as_often_as_their_shares_say(self, copy, target, lesson):
        method = GuardedRetrack(
            forget_rows=64, share_prompt=0.5, share_empty=0.5, share_adversarial=0, share_near=0, share_noise=0,
            share_other=0,
        )  # fmt: skip
        _, ((_, _, cond),), _ = of(method, copy, target, lesson, Part(step=0, forget=tuple(range(64))))
        empty = sum(torch.allclose(one, target.encode([""])[0]) for one in cond)
        assert 16 < empty < 48  # 32 +- 4 standard deviations

    def test_distances_are_uniform_in_their_logarithm(self):
        point, rng = torch.zeros(3, 5), torch.Generator().manual_seed(0)
        far = torch.stack([moved(point, "near", None, 2.0, (0.1, 10.0), rng).norm() / 2.0 for _ in range(400)])
        share = (far < 1.0).float().mean()  # the middle of log 0.1 and log 10
        assert float(share) == pytest.approx(0.5, abs=0.1)

    def test_timesteps_keep_to_where_the_direction_is_open(self, copy, target, lesson):
        part = Part(step=0, forget=tuple(range(8)))
        for kind in ("prompt", "noise", "other", "empty"):
            method = self.only(kind, most_signal=0.6, least_signal=0.3)
            _, ((_, t, _),), _ = of(method, copy, target, lesson, part)
            assert (target.signal(t) <= 0.6).all()
            low, high = method.open_times(target, kind)
            assert float(target.signal(torch.tensor([low - 1]))) > 0.6
            if kind in ("other", "empty"):
                assert (target.signal(t) >= 0.3).all()
                assert float(target.signal(torch.tensor([high + 1]))) < 0.3
            else:
                assert high == target.train_timesteps - 1

    def test_searches_go_on_where_they_ended_and_go_down(self, copy, target, lesson):
        """One embedding at a time, in turn; the loss of the original falls under it on draws it was not searched on."""
        method = GuardedRetrack(
            steps=6, refreshes=6, embeddings=2, inner_steps=5, draws=8, inner_rate=0.05, weighting="epsilon"
        )
        kept, pools = {}, []
        for step in range(3):
            assert method.stale(step, lesson) == (0, 1, 2)
            kept = {**kept, **method.refresh(step, copy, target, lesson, [1], kept)}
            pools.append(kept["pool:w1"].clone())
        first, second, third = pools
        assert torch.equal(first[0], second[0])
        assert not torch.equal(first[1], second[1])
        assert torch.equal(third[1], second[1])
        assert 0 < float((third[0] - first[0]).abs().max()) <= 5 * 0.05 + 1e-5
        rng, n = torch.Generator().manual_seed(9), 32
        noise = torch.randn((n, *target.noise_shape()), generator=rng)
        x0 = lesson.forget[1].original.expand(n, -1, -1, -1)
        t = torch.randint(*method.open_times(target, "adversarial"), (n,), generator=rng)
        x, own = target.noised(x0, noise, t), target.encode(["work 1"])[0]
        with torch.no_grad():
            before, after = (
                float(mean(copy.predict(x, t, y.expand(n, -1, -1)) - noise).mean()) for y in (own, third[0])
            )
        assert after < before

    def test_it_costs_what_it_says(self, target, lesson, tmp_path):
        method = GuardedRetrack(
            steps=4, forget_rows=2, retain_rows=1, refreshes=2, inner_steps=2, draws=3, movable_share=0.5, probe_steps=1
        )
        tuned = finetune(method, target, lesson, work=tmp_path)
        assert tuned.cost["outer"].backward == 4 * (2 + 1)
        assert tuned.cost["inner"].backward == 3 * 2 * 2 * 3 + 1 * (2 + 1)

    def test_an_interrupted_training_goes_on_with_its_embeddings_and_masks(self, target, lesson, tmp_path):
        method = GuardedRetrack(
            steps=3, forget_rows=2, retain_rows=1, refreshes=3, inner_steps=1, draws=1, movable_share=0.5, probe_steps=1
        )

        def killed(done, _total, _loss):
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finetune(method, target, lesson, work=tmp_path / "parts", report=killed, save_every_s=0)
        whole, again = (finetune(method, target, lesson, work=tmp_path / name) for name in ("whole", "parts"))
        assert whole.model.ident.digest == again.model.ident.digest
        assert whole.cost == again.cost

    @pytest.mark.parametrize("share", [0.1, 1.0])
    def test_only_chosen_rows_move(self, target, lesson, tmp_path, share):
        method = GuardedRetrack(
            steps=1, forget_rows=2, retain_rows=2, movable_share=share, weight_decay=0.5, refreshes=1, inner_steps=1
        )
        tuned = finetune(method, target, lesson, work=tmp_path)
        after, moving, total = tuned.model.pipeline.unet.state_dict(), 0, 0
        for path, value in after.items():
            moving += int((value != target.parameter(path)).sum())
            total += value.numel()
        assert moving <= share * total
        assert moving > share * total * 0.8

    def test_the_choice_is_that_of_the_largest_relative_gradients(self):
        forget = {"a": torch.tensor([[3.0, 3.0], [0.0, 0.1]]), "b": torch.tensor([5.0, 0.5, 2.0])}
        retain = {"a": torch.tensor([[9.0, 9.0], [1.0, 1.0]]), "b": torch.tensor([1.0, 1.0, 1.0])}
        masks = salient_rows(forget, retain, 2 / 7)  # scores 0.3, 0.04; 2.5, 0.25, 1
        assert masks["a"].flatten().tolist() == [False, False]
        assert masks["b"].tolist() == [True, False, True]
        masks = salient_rows(forget, retain, 4 / 7)
        assert masks["a"].tolist() == [[True], [False]]
        assert all(m.all() for m in salient_rows(forget, retain, 1.0).values())

    def test_a_row_is_drawn_the_same_whatever_else_is_in_its_part(self, copy, target, lesson):
        method = GuardedRetrack(forget_rows=4)
        whole = of(method, copy, target, lesson, Part(step=5, forget=(0, 1, 2, 3)))[0].forget["forget"]
        for row in range(4):
            alone = of(method, copy, target, lesson, Part(step=5, forget=(row,)))[0].forget["forget"]
            torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-5)


class TestDirection:
    def test_is_the_noise_that_was_added_when_the_image_is_the_right_one(self, target):
        rng = torch.Generator().manual_seed(0)
        x0, noise = (torch.randn((2, *target.noise_shape()), generator=rng) for _ in range(2))
        t = torch.tensor([50, 900])
        torch.testing.assert_close(direction(target, target.noised(x0, noise, t), t, x0), noise, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("retain-only", {"retain_rows": 0}), ("negative-gradient", {"bound": 1.0}),
        ("negative-gradient", {"forget_weight": -1}), ("esd-x", {"latents": "drawn"}),
        ("esd-u", {"negative_guidance": -1}), ("siss", {"lam": 1.5}),
        ("siss", {"timesteps": "first"}), ("siss", {"precision": "fp16"}), ("retrack", {"neighbours": 0}),
        ("concept-ablation", {"anchor": "far"}), ("concept-ablation", {"loss_type_reverse": "both"}),
        ("guarded-retrack", {"share_prompt": -1}), ("guarded-retrack", {"least_signal": 0.9}),
        ("guarded-retrack", {"movable_share": 0.5, "parameters": "lora"}), ("guarded-retrack", {"aim": "nothing"}),
        ("guarded-retrack", {"near_low": 0}), ("guarded-retrack", {"weighting": "snr"}),
    ],
)  # fmt: skip
def test_settings_without_meaning_are_refused(name, options):
    with pytest.raises(InputError, match=f"{name} refuses its settings"):
        build("finetuning", name, options)
