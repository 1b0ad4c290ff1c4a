"""What is known of each rival: distances, projections, exchanges, and noises that draw the image again."""

import pytest
import torch

from amnestic.attacks.evaluation import compared, encoded, slopes, token_slopes
from amnestic.attacks.gcg_prompt import GcgPrompt, best_words
from amnestic.attacks.hard_prompt import HardPrompt, nearest
from amnestic.attacks.losses import draw_rows, known_image_loss
from amnestic.attacks.null_text import NullText
from amnestic.attacks.prompt_search import survives
from amnestic.attacks.random_embeddings import RandomEmbeddings
from amnestic.attacks.random_tokens import RandomTokens
from amnestic.attacks.starts import natural_distance
from amnestic.core.attacks import AttackCase, Goal
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.seeds import generator
from amnestic.model.target import PipelineTarget

LATENT = (24, 16, 16)


def prompts(prefix, *texts):
    return tuple(Prompt(id=f"{prefix}{i}", prompt=text) for i, text in enumerate(texts))


GOALS = tuple(
    Goal(prompt=p, original=torch.randn(LATENT, generator=generator(0, "original", p.id)))
    for p in prompts("g", "a red cat on a blue mat", "two dogs under a green tree")
)
CASE = AttackCase(
    goals=GOALS, natural=prompts("n", "a mat", "a green tree", "two cats"),
    sampling=Sampling(num_inference_steps=5, guidance_scale=7.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@pytest.fixture(scope="module")
def known(target):
    return target.vocabulary()


def rows_of(target, draws=3):
    return [draw_rows(target, g.original, draws, names=("test", g.id), seed=0) for g in GOALS]


class TestEvaluation:
    def test_candidates_share_the_draws_of_their_goal(self, target):
        rows, texts = rows_of(target), ["a cat", "a mat", "two dogs", "a tree", "a", "cat"]
        cond = target.encode(texts).unflatten(0, (2, 3))
        found = compared(target, cond, rows, weighting="epsilon", batch_size=4)
        for goal in range(2):
            for candidate in range(3):
                one = cond[goal, candidate].expand(3, -1, -1)
                with torch.no_grad():
                    expected = known_image_loss(target, rows[goal], one, weighting="epsilon").mean()
                torch.testing.assert_close(found[goal, candidate], expected)

    def test_slopes_are_gradients_of_the_mean_loss(self, target):
        rows, cond = rows_of(target), target.encode(["a cat", "a mat"])
        loss, slope = slopes(target, cond, rows, weighting="v", batch_size=4, precision=torch.float32)
        for goal in range(2):
            point = cond[goal].clone().requires_grad_()
            mean = known_image_loss(target, rows[goal], point.expand(3, -1, -1), weighting="v").mean()
            (expected,) = torch.autograd.grad(mean, point)
            torch.testing.assert_close(loss[goal], mean.detach())
            torch.testing.assert_close(slope[goal], expected, rtol=1e-4, atol=1e-9)

    def test_token_slopes_pass_through_the_text_encoder(self, target, known):
        rows, ids = rows_of(target), target.tokens(["a cat", "a mat"])
        embeddings = known.embeddings[ids]
        loss, slope = token_slopes(target, ids, embeddings, rows, weighting="epsilon", batch_size=1)
        for goal in range(2):
            point = embeddings[goal : goal + 1].clone().requires_grad_()
            cond = target.encode_tokens(ids[goal : goal + 1], point).expand(3, -1, -1)
            mean = known_image_loss(target, rows[goal], cond, weighting="epsilon").mean()
            (expected,) = torch.autograd.grad(mean, point)
            torch.testing.assert_close(loss[goal], mean.detach())
            torch.testing.assert_close(slope[goal], expected[0], rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    def test_a_loss_that_does_not_depend_on_the_input_has_slope_zero(self, target):
        class Deaf:
            def __getattr__(self, name):
                return getattr(target, name)

            def predict(self, x, t, _cond):
                return target.predict(x, t, target.encode([""]).expand(len(x), -1, -1))

        cond = target.encode(["a cat", "a mat"])
        _, slope = slopes(Deaf(), cond, rows_of(target), weighting="epsilon", batch_size=4, precision=torch.float32)
        assert slope.shape == cond.shape
        assert not slope.any()


class TestRandomEmbeddings:
    def walk(self, target, **options):
        method = RandomEmbeddings(**{"steps": 4, "draws": 1, "candidates": 6} | options)
        found = method(target, CASE, keep=range(5))
        return found.cond[0], (found.cond[0] - found.cond[0, :1]).flatten(2)

    def test_candidates_lie_at_the_distance_that_was_asked_for(self, target):
        _, away = self.walk(target, scale=0.5, unit="natural")
        lengths = away.norm(dim=2)
        moved = lengths[lengths > 0]
        assert len(moved)
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5 * natural_distance(target, CASE.natural)))

    def test_deviations_are_those_of_the_start(self, target):
        cond, away = self.walk(target, scale=0.5)
        for goal in range(2):
            moved = away[-1, goal]
            assert moved.std() == pytest.approx(0.5 * float(cond[0, goal].std()), rel=0.1)

    def test_only_free_tokens_move(self, target):
        cond, _ = self.walk(target, free_tokens="2:5", around="best")
        moved = (cond[-1] != cond[0]).any(dim=2)
        assert moved[:, 2:5].all()
        assert not moved[:, :2].any()
        assert not moved[:, 5:].any()

    def test_around_the_best_it_walks_away(self, target):
        options = {"steps": 5, "scale": 0.3, "unit": "natural"}
        near, far = (self.walk(target, around=around, **options)[1][-1].norm(dim=1) for around in ("start", "best"))
        assert (far > 1.2 * near).all()

    def test_it_keeps_the_best_on_the_draws_of_the_step(self, target):
        method = RandomEmbeddings(steps=1, draws=2, candidates=5)
        found = method(target, CASE)
        for place, goal in enumerate(GOALS):
            rows = draw_rows(target, goal.original, 2, names=("random-embeddings", goal.id, "0/0"), seed=0)
            held = found.cond[0, :, place][None]
            start, best = compared(target, held, [rows], weighting="epsilon", batch_size=8)[0]
            assert best <= start
            torch.testing.assert_close(best, found.loss[0, 1, place])


class TestSlots:
    def test_append_keeps_the_prompt_and_adds_words(self, target, known):
        texts = [g.prompt.prompt for g in GOALS]
        slots = HardPrompt(n_tokens=4).slots(target, known, texts, CASE, 0)
        for row, at, text in zip(slots.ids, slots.at, texts, strict=True):
            own = target.tokens([text])[0].tolist()
            length = own.index(known.end)
            assert row[:length].tolist() == own[:length]
            assert at.tolist() == list(range(length, length + 4))
            assert row[length + 4] == known.end
            assert known.ordinary[row[at]].all()

    def test_prepend_and_replace(self, target, known):
        own = target.tokens(["two dogs under a green tree"])[0].tolist()
        own = own[1 : own.index(known.end)]
        texts = ["two dogs under a green tree"] * 2
        before = HardPrompt(n_tokens=2, place="prepend").slots(target, known, texts, CASE, 0)
        assert before.at[0].tolist() == [1, 2]
        assert before.ids[0, 3 : 3 + len(own)].tolist() == own
        instead = HardPrompt(n_tokens=len(own) + 2, place="replace").slots(target, known, texts, CASE, 0)
        assert instead.chosen[0, : len(own)].tolist() == own
        assert instead.ids[0, len(own) + 3] == known.end
        shorter = HardPrompt(n_tokens=1, place="replace").slots(target, known, texts, CASE, 0)
        assert target.texts_of(shorter.ids)[0] == "two"

    @pytest.mark.parametrize("place", ["append", "prepend", "replace"])
    @pytest.mark.parametrize("n_tokens", range(1, 31, 4))
    def test_what_is_cut_can_still_be_typed(self, target, known, place, n_tokens):
        texts = ["a reddishly uncattish extraordinary matting, doggedly treed!", "ünïcödé ☃ 日本 cats " * 4]
        slots = HardPrompt(n_tokens=n_tokens, place=place).slots(target, known, texts, CASE, 0)
        assert survives(target, slots.ids) == [True, True]
        assert slots.at.shape == (2, n_tokens)


class TestRandomTokens:
    @pytest.mark.parametrize("around", ["start", "best"])
    def test_the_prompt_stays_and_words_follow(self, target, around):
        found = RandomTokens(steps=3, draws=1, candidates=4, n_tokens=3, around=around)(target, CASE)
        for goal, text in zip(GOALS, found.texts[0][-1], strict=True):
            assert text.startswith(goal.prompt.prompt + " ")
            assert len(target.tokens([text])[0].unique()) > 3

    def test_around_the_best_one_word_changes_at_a_time(self, target):
        method = RandomTokens(steps=6, draws=1, candidates=3, n_tokens=5, around="best")
        found = method(target, CASE, keep=range(7))
        ids = torch.stack([target.tokens(texts) for texts in found.texts[0]])
        changed = (ids[1:] != ids[:-1]).sum(dim=2)
        first = (changed > 0).long().cumsum(dim=0)
        assert (changed[first > 1] <= 1).all()
        assert (first[-1] > 1).all()


class TestHardPrompt:
    def test_the_nearest_word_is_that_of_the_largest_cosine(self, known):
        choices = known.ordinary.nonzero()[:, 0]
        soft = known.embeddings[choices[:6]].reshape(2, 3, -1)
        assert nearest(known, 7.5 * soft).flatten().tolist() == choices[:6].tolist()
        drawn = torch.randn((2, 4, 32), generator=generator(0, "soft"))
        for one, found in zip(drawn.flatten(0, 1), nearest(known, drawn).flatten(), strict=True):
            cosines = torch.cosine_similarity(one[None], known.embeddings, dim=1)
            cosines[~known.ordinary] = -2
            assert int(cosines.argmax()) == int(found)

    def test_one_step_is_adamw_at_the_projected_words(self, target, known):
        method = HardPrompt(steps=1, draws=3, n_tokens=4, seed=3)
        found = method(target, CASE)
        slots = method.slots(target, known, [g.prompt.prompt for g in GOALS], CASE, 0)
        for place, goal in enumerate(GOALS):
            ids, at = slots.ids[place], slots.at[place]
            point = known.embeddings[ids][None].clone().requires_grad_()
            rows = draw_rows(target, goal.original, 3, names=("hard-prompt", goal.id, "0/0"), seed=3)
            cond = target.encode_tokens(ids[None], point).expand(3, -1, -1)
            loss = known_image_loss(target, rows, cond, weighting="epsilon").mean()
            (slope,) = torch.autograd.grad(loss, point)
            soft, slope = point.detach()[0, at], slope[0, at]
            moved = soft * (1 - 0.1 * 0.1) - 0.1 * slope / (slope.abs() + 1e-8)
            words = nearest(known, moved[None])[0]
            torch.testing.assert_close(found.loss[0, 1, place], loss.detach())
            torch.testing.assert_close(found.gradient[0, 1, place], slope.norm(), rtol=1e-3, atol=1e-9)
            expected = ids.scatter(0, at, words)
            assert found.texts[0][1][place] == target.texts_of(expected[None])[0]

    def test_nothing_but_the_places_changes(self, target):
        found = HardPrompt(steps=4, draws=1, n_tokens=3)(target, CASE)
        for goal, text in zip(GOALS, found.texts[0][-1], strict=True):
            assert text.startswith(goal.prompt.prompt + " ")


class TestGcgPrompt:
    def test_the_best_words_are_those_of_the_least_slope(self, known):
        slope = torch.randn((3, 32), generator=generator(0, "slope"))
        found = best_words(known, slope, 5)
        for one, words in zip(slope, found, strict=True):
            steep = known.embeddings @ one
            steep[~known.ordinary] = torch.inf
            assert sorted(words.tolist()) == sorted(steep.argsort()[:5].tolist())
        assert best_words(known, slope, 10**6).shape[1] == int(known.ordinary.sum())

    def test_a_step_exchanges_at_most_one_word_and_never_gets_worse(self, target, known):
        method = GcgPrompt(steps=2, draws=2, n_tokens=3, candidates=5)
        found = method(target, CASE, keep=range(3))
        slots = method.slots(target, known, [g.prompt.prompt for g in GOALS], CASE, 0)
        held = torch.stack([slots.ids, *(target.tokens(texts) for texts in found.texts[0][1:])])
        changed = (held[1:] != held[:-1]).sum(dim=2)
        assert (changed <= 1).all()
        assert changed.any(dim=0).all()
        for step in range(2):
            for place, goal in enumerate(GOALS):
                rows = draw_rows(target, goal.original, 2, names=("gcg-prompt", goal.id, f"0/{step}"), seed=0)
                cond = encoded(target, target.texts_of(held[step : step + 2, place]), batch_size=4)
                before, after = compared(target, cond[None], [rows], weighting="epsilon", batch_size=4)[0]
                assert after <= before + 1e-7
                torch.testing.assert_close(found.loss[0, step + 1, place], after)

    def test_candidates_are_counted_and_no_more_than_asked_for(self, target):
        found = GcgPrompt(steps=2, draws=1, candidates=4, n_tokens=2)(target, CASE)
        assert found.cost["backward"][0, -1].tolist() == [2, 2]
        assert (found.cost["forward"][0, -1] <= 2 * (1 + 4)).all()
        assert (found.cost["forward"][0, -1] > 2).all()


class TestNullText:
    def drawn(self, target, found, how=CASE.sampling, step=-1):
        units = [Unit(g.id, 0) for g in GOALS]
        return target.sample(units, [""] * 2, how, cond=found.cond[0, step], start=found.start[0, step])

    def off(self, latents):
        originals = torch.stack([g.original for g in GOALS])
        return (latents.cpu() - originals).square().mean(dim=(1, 2, 3)) / originals.square().mean()

    def test_the_noise_draws_the_image_again_though_the_model_never_saw_it(self, target):
        """Which is why only the difference to controls says anything."""
        found = NullText(steps=2, iterations=4)(target, CASE)
        clean = self.off(self.drawn(target, found))
        assert (clean < 0.01).all()
        assert (self.off(self.drawn(target, found, step=0)) > 0.5).all()

    def test_guidance_has_no_effect(self, target):
        found = NullText(steps=1)(target, CASE)
        without = Sampling(num_inference_steps=5, guidance_scale=1.0)
        torch.testing.assert_close(
            self.drawn(target, found), self.drawn(target, found, without), atol=1e-3, rtol=1e-3
        )  # fmt: skip

    def test_more_passes_come_nearer_to_the_fixed_point(self, target):
        found = NullText(steps=4, iterations=2)(target, CASE)
        assert (found.loss[0, 4] < found.loss[0, 2]).all()
        assert (found.loss[0, 2] < found.loss[0, 1]).all()

    def test_one_pass_is_fixed_point_iteration_written_down(self, target):
        found = NullText(steps=1, iterations=3)(target, CASE)
        alphas, times = target.pipeline.scheduler.alphas_cumprod, target.timesteps(CASE.sampling).flip(0)
        empty = target.encode([""])
        for place, goal in enumerate(GOALS):
            x, before = goal.original[None], torch.tensor(1.0)
            for t in times:
                z, alpha = x, alphas[t]
                for _ in range(3):
                    with torch.no_grad():
                        eps = target.predict(z, t[None], empty)
                    clean = (x - (1 - before).sqrt() * eps) / before.sqrt()
                    z = alpha.sqrt() * clean + (1 - alpha).sqrt() * eps
                x, before = z, alpha
            torch.testing.assert_close(found.start[0, 1, place], x[0], rtol=1e-3, atol=1e-3)

    def test_adamw_comes_nearer_than_a_plain_step(self, target):
        plain = NullText(steps=1, iterations=1)(target, CASE)
        found = NullText(steps=1, iterations=6, solver="adamw", learning_rate=0.01)(target, CASE)
        assert (self.off(self.drawn(target, found)) < self.off(self.drawn(target, plain))).all()
        assert found.cost["backward"][0, -1].tolist() == [30, 30]
        assert found.cost["forward"][0, -1].tolist() == [35, 35]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (RandomEmbeddings, {"unit": "metre"}), (RandomEmbeddings, {"scale": 0.0}), (RandomEmbeddings, {"around": "x"}),
        (RandomEmbeddings, {"candidates": 0}), (RandomTokens, {"around": "x"}), (RandomTokens, {"candidates": 0}),
        (RandomTokens, {"start": "noise"}), (RandomTokens, {"place": "here"}), (HardPrompt, {"learning_rate": 0.0}),
        (HardPrompt, {"n_tokens": 0}), (HardPrompt, {"t_low": 1.0}), (GcgPrompt, {"top_k": 0}),
        (NullText, {"solver": "guess"}), (NullText, {"iterations": 0}),
    ],
)  # fmt: skip
def test_settings_without_meaning_are_refused(method, options):
    with pytest.raises(ValueError, match=r"expected|must be"):
        method(**options)
