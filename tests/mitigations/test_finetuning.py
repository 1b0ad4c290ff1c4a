"""What every registered way of fine-tuning must keep to, and the loop that trains them."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from amnestic.attacks.dori import Dori
from amnestic.core.attacks import Goal
from amnestic.core.denoising import denoising_loss
from amnestic.core.errors import InputError, NotFinite, StoreError
from amnestic.core.finetuning import FineTuning, Lesson, Losses, Pair, Part
from amnestic.core.records import Prompt
from amnestic.core.registry import build, methods
from amnestic.mitigations.finetune.adversarial import Adversarial
from amnestic.mitigations.finetune.adversarial_without_embeddings import AdversarialWithoutEmbeddings
from amnestic.mitigations.finetune.checkpoint import FILE
from amnestic.mitigations.finetune.gradients import Gradients
from amnestic.mitigations.finetune.loop import finetune
from amnestic.mitigations.finetune.losses import noised_rows
from amnestic.model.target import PipelineTarget
from amnestic.model.trainee import TrainedCopy, changed

NAMES = sorted(methods("finetuning"))
LEARNS = {
    "full": lambda name: True,
    "cross-attention": lambda name: ".attn2." in name,
    "not-cross-attention": lambda name: ".attn2." not in name,
    "value": lambda name: ".attn2.to_v." in name,
    "lora": lambda name: name.endswith("weight") and (".attn1.to_" in name or ".attn2.to_" in name),
}
SMALL = {"steps": 2, "forget_rows": 2, "retain_rows": 2}


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
        memorized=tuple(g.prompt for g in goals), attack=Dori(steps=2, draws=2),
    )  # fmt: skip


@contextmanager
def unchanged(target):
    before = {k: v.clone() for k, v in target.pipeline.unet.state_dict().items()}
    yield before
    after = target.pipeline.unet.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for p in target.pipeline.unet.parameters())


def weights(tuned):
    return tuned.model.pipeline.unet.state_dict()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("name", NAMES)
class TestEveryWayOfFineTuning:
    def test_learns_nothing_but_what_it_declares(self, target, lesson, tmp_path, name):
        method = build("finetuning", name, SMALL)
        with unchanged(target) as before:
            tuned = finetune(method, target, lesson, work=tmp_path)
        assert tuned.steps == 2
        assert tuned.model.ident.digest != target.ident.digest
        differing = {k for k, v in weights(tuned).items() if not torch.equal(v, before[k])}
        assert differing
        assert all(map(LEARNS[method.parameters], differing))
        assert all(v.isfinite().all() for v in weights(tuned).values())
        assert len(tuned.curves["loss"]) == len(tuned.curves["gradient"]) == 2
        assert tuned.cost["outer"].backward > 0

    def test_says_the_same_twice(self, target, lesson, tmp_path, name):
        method = build("finetuning", name, SMALL)
        assert same(*(finetune(method, target, lesson, work=tmp_path / str(i)) for i in range(2)))

    def test_is_refused_where_its_lesson_lacks_something(self, target, lesson, tmp_path, name):
        with pytest.raises(InputError, match="expected at least one image to forget"):
            finetune(build("finetuning", name, SMALL), target, replace(lesson, forget=()), work=tmp_path)


class TestParameters:
    @pytest.mark.parametrize("parameters", sorted(LEARNS))
    def test_only_the_chosen_ones_change_and_all_of_them(self, target, lesson, tmp_path, parameters):
        method = AdversarialWithoutEmbeddings(**SMALL, parameters=parameters, weight_decay=0.5, learning_rate=1e-2)
        with unchanged(target) as before:
            tuned = finetune(method, target, lesson, work=tmp_path)
        differing = {k for k, v in weights(tuned).items() if not torch.equal(v, before[k])}
        assert list(weights(tuned)) == list(before)
        assert differing == {k for k in before if LEARNS[parameters](k)}
        told = changed(target, tuned.model)
        assert told["of"] == sum(v.numel() for v in before.values())
        assert told["bytes"] == sum(before[k].numel() * 4 for k in differing)

    def test_feed_forward_layers_learn_with_lora_when_asked_to(self, target):
        copy = TrainedCopy.of(target, parameters="lora", lora_layers="attention+ff")
        assert any(".ff.net.2." in path for path in copy.trained)
        assert any(".ff.net.0.proj." in path for path in copy.trained)

    def test_low_rank_layers_begin_as_the_model_and_merge_into_what_they_computed(self, target):
        copy, rng = TrainedCopy.of(target, parameters="lora", lora_rank=3, seed=1), torch.Generator().manual_seed(0)
        x = torch.randn((2, *target.noise_shape()), generator=rng)
        t, cond = torch.tensor([10, 700]), target.encode(["one", "two"])
        with torch.no_grad():
            assert torch.equal(copy.predict(x, t, cond), target.predict(x, t, cond))
            for weight in copy.trained.values():
                weight.copy_(torch.randn(weight.shape, generator=rng) * 0.1)
            parametrised, merged = copy.predict(x, t, cond), copy.learned()
            torch.testing.assert_close(merged.predict(x, t, cond), parametrised, rtol=1e-5, atol=1e-6)
            assert (parametrised - target.predict(x, t, cond)).abs().max() > 1e-3
        assert list(merged.pipeline.unet.state_dict()) == list(target.pipeline.unet.state_dict())
        for path, value in merged.pipeline.unet.state_dict().items():
            differs = (value - target.parameter(path)).double()
            assert value.ndim != 2 or torch.linalg.matrix_rank(differs, atol=1e-5) in (0, 3)

    def test_a_half_precision_model_learns_in_full_and_is_given_back_in_half(self, tiny_pipeline, lesson, tmp_path):
        half = PipelineTarget.load(tiny_pipeline, dtype="bfloat16")
        method = AdversarialWithoutEmbeddings(**SMALL)
        copy = TrainedCopy.of(half)
        assert {p.dtype for p in copy.trained.values()} == {torch.float32}
        tuned = finetune(method, half, lesson, work=tmp_path)
        assert {v.dtype for v in weights(tuned).values()} == {torch.bfloat16}


class TestLoop:
    def test_the_loss_falls(self, target, lesson, tmp_path):
        """Images without content: the noise is what is seen, over sqrt(1 - a)."""
        empty = torch.zeros(1, *target.noise_shape())
        lesson = replace(
            lesson, surrogates={g.id: empty for g in lesson.forget},
            retain=tuple(replace(pair, latents=empty[0]) for pair in lesson.retain),
        )  # fmt: skip
        method = AdversarialWithoutEmbeddings(steps=60, learning_rate=3e-3, forget_rows=4, retain_rows=4)
        tuned = finetune(method, target, lesson, work=tmp_path)
        loss = torch.tensor(tuned.curves["loss"])
        assert loss[-10:].mean() < 0.8 * loss[:10].mean()
        parts = torch.tensor([tuned.curves["loss.forget"], tuned.curves["loss.retain"]])
        torch.testing.assert_close(parts.sum(0), loss)

    @pytest.mark.parametrize("after", [1, 2, 3])
    @pytest.mark.parametrize(
        "options",
        [{}, {"ema": 0.9, "parameters": "lora", "refresh_in": "steps", "refresh_every": 3, "embeddings_kept": 2}],
    )
    def test_taken_up_again_it_is_the_uninterrupted_one_bit_for_bit(self, target, lesson, tmp_path, after, options):
        method = Adversarial(**SMALL | {"steps": 5, "warmup": 3} | options)
        whole = finetune(method, target, lesson, work=tmp_path / "whole")

        def killed(done, _total, _loss):
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finetune(method, target, lesson, work=tmp_path / "parts", report=killed, save_every_s=0)
        steps = []
        again = finetune(
            method, target, lesson, work=tmp_path / "parts", report=lambda done, _total, _loss: steps.append(done)
        )
        assert steps == list(range(after + 1, 6))
        assert same(whole, again)
        assert whole.curves == again.curves
        assert whole.cost == again.cost

    def test_a_finished_training_is_read_not_repeated(self, target, lesson, tmp_path):
        method, told = AdversarialWithoutEmbeddings(**SMALL), []
        one = finetune(method, target, lesson, work=tmp_path)
        other = finetune(method, target, lesson, work=tmp_path, report=lambda *row: told.append(row))
        assert not told
        assert same(one, other)

    @pytest.mark.parametrize("what", ["method", "lesson"])
    def test_the_checkpoint_of_another_training_is_refused(self, target, lesson, tmp_path, what):
        method = AdversarialWithoutEmbeddings(**SMALL)
        finetune(method, target, lesson, work=tmp_path)
        if what == "method":
            method = replace(method, learning_rate=2e-5)
        else:
            first = next(iter(lesson.surrogates))
            lesson = replace(lesson, surrogates={**lesson.surrogates, first: lesson.surrogates[first] + 1})
        with pytest.raises(StoreError, match="belongs to another training"):
            finetune(method, target, lesson, work=tmp_path)

    def test_a_damaged_checkpoint_is_refused(self, target, lesson, tmp_path):
        (tmp_path / FILE).write_bytes(b"\0" * 100)
        with pytest.raises(StoreError, match="delete it to train again"):
            finetune(AdversarialWithoutEmbeddings(**SMALL), target, lesson, work=tmp_path)

    def test_whoever_watches_sees_the_model_and_changes_nothing(self, target, lesson, tmp_path):
        method, seen = AdversarialWithoutEmbeddings(**SMALL | {"steps": 4}), {}

        def watch(step, model):
            seen[step] = model.ident.digest
            return {"rate": 1 / (1 + step)}

        alone = finetune(method, target, lesson, work=tmp_path / "alone")
        watched = finetune(method, target, lesson, work=tmp_path / "watched", watch=watch, watch_at=(0, 2, 4))
        assert same(alone, watched)
        assert seen[0] == target.ident.digest
        assert seen[4] == watched.model.ident.digest
        assert len(set(seen.values())) == 3
        assert watched.watched == ({"step": 0, "rate": 1.0}, {"step": 2, "rate": 1 / 3}, {"step": 4, "rate": 0.2})
        again = finetune(method, target, lesson, work=tmp_path / "watched", watch=None, watch_at=())
        assert again.watched == watched.watched

    def test_nan_is_refused_with_a_remedy_and_the_last_checkpoint_stays(self, target, lesson, tmp_path):
        method = BreaksInStep(**SMALL | {"steps": 4})
        with pytest.raises(NotFinite, match=r"in step 3 of 4; use a smaller learning_rate.*the last checkpoint in"):
            finetune(method, target, lesson, work=tmp_path, save_every_s=0)
        mended = finetune(replace(method, steps=2), target, lesson, work=tmp_path / "two")
        with pytest.raises(NotFinite, match="in step 3 of 4"):  # still at step 2, not at a damaged step 3
            finetune(method, target, lesson, work=tmp_path, save_every_s=0)
        assert all(v.isfinite().all() for v in weights(mended).values())

    def test_averaged_weights_lie_between_the_first_and_the_last(self, target, lesson, tmp_path):
        """Decay of step k is min(ema, (1 + k) / (10 + k)): after one step 2 / 11 of the model before remains."""
        method = AdversarialWithoutEmbeddings(**SMALL | {"steps": 1})
        last, mean = (
            finetune(replace(method, ema=ema), target, lesson, work=tmp_path / str(ema)) for ema in (0.0, 0.9)
        )
        for path, value in weights(mean).items():
            before = target.parameter(path)
            torch.testing.assert_close(value, before + 9 / 11 * (weights(last)[path] - before), rtol=1e-6, atol=1e-7)

    def test_bf16_and_checkpointing_take_the_same_step_up_to_rounding(self, target, lesson, tmp_path):
        method = AdversarialWithoutEmbeddings(**SMALL | {"steps": 1})
        plain, saving, half = (
            finetune(replace(method, **options), target, lesson, work=tmp_path / str(i))
            for i, options in enumerate(({}, {"checkpointing": True}, {"precision": "bf16"}))
        )
        assert saving.curves["loss"] == plain.curves["loss"]
        assert saving.curves["gradient"] == pytest.approx(plain.curves["gradient"], rel=1e-5)
        assert half.curves["loss"] != plain.curves["loss"]
        assert half.curves["loss"] == pytest.approx(plain.curves["loss"], rel=0.02)
        assert half.curves["gradient"] == pytest.approx(plain.curves["gradient"], rel=0.1)

    def test_fp16_scales_its_loss_and_is_taken_up_again(self, target, lesson, tmp_path):
        """The first steps overflow, whereupon the scale is halved and nothing moves; that is no mistake."""
        method = AdversarialWithoutEmbeddings(**SMALL | {"steps": 3}, precision="fp16")

        def killed(done, _total, _loss):
            if done == 2:
                raise KeyboardInterrupt

        whole = finetune(method, target, lesson, work=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            finetune(method, target, lesson, work=tmp_path / "parts", report=killed, save_every_s=0)
        again = finetune(method, target, lesson, work=tmp_path / "parts")
        assert same(whole, again)
        exact = finetune(replace(method, precision="no"), target, lesson, work=tmp_path / "exact")
        assert whole.curves["loss"][0] == pytest.approx(exact.curves["loss"][0], rel=1e-2)
        finite = [i for i, value in enumerate(whole.curves["gradient"]) if value < float("inf")]
        assert finite
        assert whole.curves["gradient"][finite[0]] == pytest.approx(exact.curves["gradient"][finite[0]], rel=0.1)


@dataclass(frozen=True, kw_only=True)
class BreaksInStep(AdversarialWithoutEmbeddings):
    """Comes to NaN in the third step."""

    def losses(self, trainee, frozen, lesson, part, kept):
        found = super().losses(trainee, frozen, lesson, part, kept)
        factor = torch.nan if part.step == 2 else 1.0
        return Losses(forget={k: v * factor for k, v in found.forget.items()}, retain=found.retain)


@dataclass(frozen=True, kw_only=True)
class TwoTerms(FineTuning):
    """A loss whose gradients are known to be weighed against each other."""

    balances: ClassVar[bool] = True
    length: float = 3.0

    def losses(self, trainee, frozen, lesson, part, kept):
        cond = trainee.encode(["a"] * len(part.forget))
        x0 = torch.stack([lesson.forget[i].original for i in self.goals_of(lesson, part)])
        rows = noised_rows(trainee, x0, [part.rng("row", r) for r in part.forget], device=cond.device)
        loss = denoising_loss(trainee, rows, cond)
        return Losses(forget={"up": loss, "down": -loss.square()})

    def balance(self, norms):
        return {"up": 1.0, "down": self.length / norms["down"]}

    def movable(self, kept):
        return {"conv_in.bias": torch.arange(16) < 5}


class TestGradients:
    def summed(self, target, lesson, method):
        copy = TrainedCopy.of(target)
        gradients = Gradients(weights=list(copy.trained.values()), method=method)
        for part in method.parts(0, 1):
            gradients.add(method.losses(copy, target, lesson, part, {}), part)
        return gradients, copy

    def test_parts_add_up_to_the_whole_batch(self, target, lesson):
        method = AdversarialWithoutEmbeddings(forget_rows=5, retain_rows=4)
        whole, _ = self.summed(target, lesson, method)
        split, _ = self.summed(target, lesson, replace(method, accumulation=3))
        assert split.values == pytest.approx(whole.values, rel=1e-5)
        for one, other in zip(whole.by_term[""], split.by_term[""], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

    def test_more_parts_than_rows_leave_some_empty(self, target, lesson, tmp_path):
        method = AdversarialWithoutEmbeddings(**SMALL | {"steps": 1, "accumulation": 5})
        assert finetune(method, target, lesson, work=tmp_path).cost["outer"].forward == 4

    def test_terms_are_weighed_by_their_own_gradients(self, target, lesson):
        method = TwoTerms(forget_rows=3)
        gradients, copy = self.summed(target, lesson, method)
        first = next(iter(copy.trained.values()))
        up, down = (gradients.by_term[name][0].clone() for name in ("up", "down"))
        norms = gradients.norms()
        gradients.hand_over({})
        torch.testing.assert_close(first.grad, up + down * (3.0 / norms["down"]))
        lengths = [torch.linalg.vector_norm(g).square() for g in gradients.by_term["down"]]
        assert norms["down"] == pytest.approx(float(torch.stack(lengths).sum().sqrt()), rel=1e-5)

    def test_entries_that_may_not_move_stay_whatever_weight_decay_does(self, target, lesson, tmp_path):
        tuned = finetune(TwoTerms(steps=2, weight_decay=0.5, learning_rate=1e-2), target, lesson, work=tmp_path)
        before, after = target.parameter("conv_in.bias"), weights(tuned)["conv_in.bias"]
        assert torch.equal(before[5:], after[5:])
        assert (before[:5] != after[:5]).all()

    def test_an_author_who_returns_one_value_for_all_rows_is_told(self, target, lesson):
        gradients = Gradients(weights=[], method=AdversarialWithoutEmbeddings())
        with pytest.raises(ValueError, match=r"expected one forget per row, 2.*got \(\)"):
            gradients.add(Losses(forget={"forget": torch.tensor(1.0)}), Part(step=0, forget=(0, 1)))


class TestAdversarial:
    def test_every_image_comes_up_once_before_any_comes_again(self, lesson):
        method = Adversarial(forget_rows=2)
        came = [i for step in range(6) for i in method.goals_of(lesson, Part(step=step, forget=(0, 1)))]
        for epoch in range(4):
            assert sorted(came[3 * epoch : 3 * epoch + 3]) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("options", "sizes"),
        [
            ({"refresh_in": "visits"}, [2, 2, 2, 2, 2, 2]),
            ({"refresh_in": "visits", "refresh_every": 2}, [2, 1, 0, 2, 1, 0]),  # rows of epochs 00 01 11 22 23 33
            ({"refresh_in": "epochs"}, [3, 3, 0, 3, 3, 0]),
            ({"refresh_in": "epochs", "refresh_every": 2}, [3, 0, 0, 3, 0, 0]),
            ({"refresh_in": "steps", "refresh_every": 4}, [3, 0, 0, 0, 3, 0]),
        ],
    )
    def test_embeddings_are_made_anew_as_often_as_asked(self, lesson, options, sizes):
        method = Adversarial(forget_rows=2, **options)
        assert [len(method.stale(step, lesson)) for step in range(6)] == sizes
        due = method.stale(0, lesson)
        assert set(method.goals_of(lesson, Part(step=0, forget=(0, 1)))) <= set(due)

    def test_searches_see_the_weights_of_their_step_and_are_counted(self, target, lesson, tmp_path):
        method = Adversarial(**SMALL | {"steps": 3}, starts=("prompt",), searches=2, embeddings_kept=3, inner_steps=4)
        tuned = finetune(method, target, lesson, work=tmp_path)
        made = sum(len(method.stale(step, lesson)) for step in range(3))
        assert made == 6
        assert tuned.cost["inner"].forward == made * 2 * 4 * 2  # searches, steps, draws
        assert tuned.cost["outer"].forward == 3 * 4

    def test_the_latest_embeddings_of_an_image_are_kept(self, target, lesson):
        method = Adversarial(starts=("prompt", "noise", "other-prompt"), searches=2, embeddings_kept=3)
        copy = TrainedCopy.of(target)
        first = dict(method.refresh(0, copy, target, lesson, [1], {}))
        second = method.refresh(1, copy, target, lesson, [1], first)
        (one,), (other,) = first.values(), second.values()
        assert one.shape[0] == 2
        assert other.shape[0] == 3
        assert torch.equal(other[0], one[1])
        assert not torch.equal(other[1], one[0])  # fresh draws, though the attack has one seed
        assert all(p.requires_grad for p in copy.trained.values())

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_rows_are_shown_embeddings_or_the_prompt(self, target, lesson, share):
        method = Adversarial(prompt_share=share)
        kept = {f"embedding:{g.id}": torch.full((1, *target.encode([""]).shape[1:]), float(i))
                for i, g in enumerate(lesson.forget)}  # fmt: skip
        shown = method.conditions(target, lesson, Part(step=0, forget=(0, 1)), [2, 0], kept)
        own = target.encode([lesson.forget[2].prompt.prompt, lesson.forget[0].prompt.prompt])
        wanted = own if share else torch.stack([kept["embedding:w2"][0], kept["embedding:w0"][0]])
        assert torch.equal(shown, wanted)

    def test_without_embeddings_it_needs_no_attack_and_costs_no_inner_pass(self, target, lesson, tmp_path):
        bare = replace(lesson, attack=None)
        tuned = finetune(AdversarialWithoutEmbeddings(**SMALL), target, bare, work=tmp_path / "plain")
        assert "inner" not in tuned.cost
        with pytest.raises(InputError, match="was given no attack"):
            finetune(Adversarial(**SMALL), target, bare, work=tmp_path / "adversarial")

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"surrogates": {}}, "needs a surrogate for every image to forget, got none for w0, w1, w2"),
            ({"retain": ()}, "needs ordinary pairs"),
            ({"surrogates": {f"w{i}": torch.zeros(1, 4, 3, 3) for i in range(3)}}, "expected latents of shape"),
        ],
    )
    def test_a_lesson_that_lacks_something_is_refused(self, target, lesson, tmp_path, change, sentence):
        with pytest.raises(InputError, match=sentence):
            finetune(AdversarialWithoutEmbeddings(**SMALL), target, replace(lesson, **change), work=tmp_path)

    @pytest.mark.parametrize(
        "options",
        [{"refresh_in": "days"}, {"refresh_every": 0}, {"starts": ()}, {"prompt_share": 1.5}, {"parameters": "half"},
         {"precision": "fp8"}, {"epochs": 0}, {"ema": 1.0}, {"caption_dropout": -0.1}, {"t_low": 0.5, "t_high": 0.5},
         {"weighting": "snr"}, {"learning_rate": 0}, {"accumulation": 0}],
    )  # fmt: skip
    def test_settings_without_meaning_are_refused(self, options):
        with pytest.raises(InputError, match="adversarial refuses its settings"):
            build("finetuning", "adversarial", options)

    def test_epochs_count_passes_over_the_images(self, lesson):
        assert Adversarial(epochs=5, forget_rows=2).total_steps(lesson) == 8


class TestDenoisingLoss:
    def test_weights_turn_errors_of_noise_into_those_of_v_and_of_the_image(self, target):
        """Literal: with the true noise n and the predicted one e, v = sqrt(a) n - sqrt(1-a) x0 and x0 from x_t."""
        x0 = torch.randn((3, *target.noise_shape()), generator=torch.Generator().manual_seed(3))
        rngs = [torch.Generator().manual_seed(i) for i in range(3)]
        rows, cond = noised_rows(target, x0, rngs, device=x0.device), target.encode(["a", "b", "c"])
        with torch.no_grad():
            eps = target.predict(rows.x, rows.t, cond)
            found = {w: denoising_loss(target, rows, cond, weighting=w) for w in ("prediction", "epsilon", "v", "x0")}
        a = target.pipeline.scheduler.alphas_cumprod[rows.t].reshape(-1, 1, 1, 1)
        hat = (rows.x - (1 - a).sqrt() * eps) / a.sqrt()
        v, v_hat = a.sqrt() * rows.noise - (1 - a).sqrt() * x0, a.sqrt() * eps - (1 - a).sqrt() * hat
        for name, error in (("epsilon", eps - rows.noise), ("v", v_hat - v), ("x0", hat - x0)):
            torch.testing.assert_close(found[name], error.square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=1e-4)
        own = {"epsilon": "epsilon", "v_prediction": "v"}[target.prediction_type]
        assert torch.equal(found["prediction"], found[own])


TWO = """
import json, sys
from pathlib import Path
import torch
from amnestic.attacks.dori import Dori
from amnestic.core.attacks import Goal
from amnestic.core.finetuning import Lesson, Pair
from amnestic.core.records import Prompt
from amnestic.mitigations.finetune.adversarial import Adversarial
from amnestic.mitigations.finetune.loop import finetune
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team

crew, target, out = team("cpu"), PipelineTarget.load(sys.argv[1]), Path(sys.argv[2])
rng = torch.Generator().manual_seed(0)
shape = target.noise_shape()
goals = tuple(
    Goal(prompt=Prompt(id=str(i), prompt=str(i)), original=torch.randn(shape, generator=rng)) for i in range(3)
)
lesson = Lesson(
    forget=goals, surrogates={g.id: torch.randn((1, *shape), generator=rng) for g in goals},
    retain=(Pair(prompt=Prompt(id="b", prompt="b"), latents=torch.randn(shape, generator=rng)),),
    attack=Dori(steps=2, draws=2),
)
method = Adversarial(steps=2, forget_rows=3, retain_rows=1, starts=("prompt", "noise"), max_grad_norm=0.0)
tuned = finetune(
    method, target, lesson, work=out / "work", crew=crew, watch=lambda step, model: {"seen": 1.0}, watch_at=(1,)
)
told = {"curves": tuned.curves, "digest": tuned.model.ident.digest, "watched": tuned.watched,
        "cost": {k: [c.forward, c.backward] for k, c in tuned.cost.items()}}
(out / f"{crew.index}.json").write_text(json.dumps(told))
"""


@pytest.mark.dist
def test_two_processes_share_the_rows_and_learn_what_one_learns(tiny_pipeline, tmp_path):
    (tmp_path / "train.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29631"]
    told = {}
    for name, command in (("two", launch), ("one", [sys.executable])):
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [*command, str(tmp_path / "train.py"), str(tiny_pipeline), str(tmp_path / name)], capture_output=True,
            text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told[name] = [json.loads(f.read_text()) for f in sorted((tmp_path / name).glob("*.json"))]
    (one,), (main, other) = told["one"], told["two"]
    assert main == other  # the same weights, curves and cost in both
    assert main["cost"] == one["cost"]
    assert main["watched"] == one["watched"] == [{"step": 1, "seen": 1.0}]
    for name, curve in one["curves"].items():
        assert main["curves"][name] == pytest.approx(curve, rel=1e-3), name
