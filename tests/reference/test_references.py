"""The reference implementations against answers worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from amnestic.core.seeds import generator, seeded_init
from amnestic.model.target import PipelineTarget
from amnestic.testbed.diffusion import new_unet

from . import nemo_literal as nemo
from . import wanda_literal as wanda
from .ms_ssim_literal import ms_ssim

# One prompt with L = 2 tokens and F = 3 inputs. Rows of unit length: uncond (0, 0, 0) stays, (0, 2, 0) -> (0, 1, 0);
# cond (3, 4, 0) -> (.6, .8, 0), (0, 0, 5) -> (0, 0, 1). Column sums of squares: .36, 1 + .64, 1.
PROMPT = np.array([[[0, 0, 0], [0, 2, 0]], [[3, 4, 0], [0, 0, 5]]], dtype=np.float32)
SQUARES = np.array([0.36, 1.64, 1.0])
WEIGHT = np.array([[1, -2, 3], [4, 0.5, -1]], dtype=np.float32)
TARGET = np.array([0.6, 1.25, 1.0], dtype=np.float32)
# |W| * TARGET = [[.6, 2.5, 3], [2.4, .625, 1]]


class TestWandaByHand:
    def test_rows_get_unit_length_and_zero_rows_stay(self):
        rows = wanda.normalised_rows(PROMPT.reshape(-1, 3))
        np.testing.assert_allclose(rows, [[0, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, 1]], rtol=1e-6)

    def test_norms_count_both_guidance_rows_and_all_prompts(self):
        np.testing.assert_allclose(wanda.column_norms([PROMPT]), np.sqrt(SQUARES), rtol=1e-6)
        np.testing.assert_allclose(wanda.column_norms([PROMPT, PROMPT * 7]), np.sqrt(2 * SQUARES), rtol=1e-6)

    def test_one_guidance_row_is_refused(self):
        with pytest.raises(ValueError, match="both guidance rows"):
            wanda.column_norms([PROMPT[1:]])

    def test_scores_and_the_top_of_each_row(self):
        score = wanda.scores(WEIGHT, TARGET)
        np.testing.assert_allclose(score, [[0.6, 2.5, 3], [2.4, 0.625, 1]], rtol=1e-6)
        assert wanda.top_per_row(score, 0.34).tolist() == [[False, False, True], [True, False, False]]
        assert wanda.top_per_row(score, 0.67).tolist() == [[False, True, True], [True, False, True]]
        assert wanda.top_per_row(np.ones((1, 3)), 0.67).tolist() == [[True, True, False]]  # ties: lower column

    def test_a_ratio_too_small_for_one_entry_warns(self):
        with pytest.warns(UserWarning, match="selects nothing"):
            assert not wanda.top_per_row(WEIGHT, 0.3).any()

    @pytest.mark.parametrize("compare", ["scores", "norms"])
    def test_the_contrast_must_be_strictly_smaller(self, compare):
        # columns: .6 < .7, 1.25 > 1, 1 == 1: only the middle one may go, and only row 0 has it in its top two
        contrast = np.array([0.7, 1.0, 1.0], dtype=np.float32)
        mask = wanda.step_mask(WEIGHT, TARGET, contrast, 0.67, compare=compare)
        assert mask.tolist() == [[False, True, False], [False, False, False]]

    def test_a_zero_weight_tells_the_two_comparisons_apart(self):
        weight, contrast = np.zeros((1, 3), np.float32), np.zeros(3, np.float32)
        assert not wanda.step_mask(weight, TARGET, contrast, 0.34).any()
        assert wanda.step_mask(weight, TARGET, contrast, 0.34, compare="norms").tolist() == [[True, False, False]]

    def test_the_union_takes_the_first_tau_calls(self):
        masks = [np.array([[flag == "1" for flag in row]]) for row in ("100", "010", "010", "001")]
        assert wanda.union_over_steps(masks, 3).tolist() == [[True, True, False]]
        assert wanda.union_over_steps(masks, 3, select_ratio=0.5).tolist() == [[False, True, False]]  # more than 1.5
        with pytest.raises(ValueError, match="only 4 U-Net calls"):
            wanda.union_over_steps(masks, 5)

    def test_contrast_prompts(self):
        assert wanda.paired_with_contrast(["a", "b"]) == (["a", "b"], ["", ""])
        assert wanda.paired_with_contrast(["a", "b"], ["c"]) == (["a"], ["c"])

    def test_pruning_copies_and_keeps_the_type(self):
        weight = torch.tensor(WEIGHT, dtype=torch.float16)
        result = wanda.pruned(weight, wanda.top_per_row(np.abs(WEIGHT), 0.34))
        assert result.tolist() == [[1, -2, 0], [0, 0.5, -1]]
        assert result.dtype == torch.float16
        assert weight[0, 2] == 3


HOW = {"steps": 2, "guidance_scale": 3.0, "seed": 5}


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline):
    return PipelineTarget.load(str(tiny_pipeline)).pipeline


@pytest.fixture(scope="module")
def layers(pipeline):
    return wanda.ffn_output_layers(pipeline.unet)


class TestWandaOnAPipeline:
    def test_layers_are_all_second_linears_with_the_middle_before_the_upper_blocks(self, pipeline, layers):
        modules = dict(pipeline.unet.named_modules())
        assert all(modules[name].in_features == 4 * modules[name].out_features for name in layers)
        assert [name.split("_")[0] for name in layers] == sorted(name.split("_")[0] for name in layers)
        blocks = [name for name in modules if name.endswith("ff")]
        assert sorted(f"{name}.net.2" for name in blocks) == layers

    def test_rows_are_unconditional_then_conditional_and_runs_share_their_noise(self, pipeline, layers):
        cat = wanda.record_prompt(pipeline, "a red cat", layers[:1], **HOW)[layers[0]]
        empty = wanda.record_prompt(pipeline, "", layers[:1], **HOW)[layers[0]]
        assert len(cat) == len(empty) == 2
        np.testing.assert_allclose(empty[0][0], empty[0][1], atol=1e-5)
        np.testing.assert_allclose(cat[0][0], empty[0][0], atol=1e-5)
        assert np.abs(cat[0][1] - empty[0][1]).max() > 1e-4

    def test_an_embedding_is_as_good_as_its_prompt(self, pipeline, layers):
        embedding = pipeline.encode_prompt("a red cat", "cpu", 1, False)[0].detach()
        by_text = wanda.record_prompt(pipeline, "a red cat", layers[:1], **HOW)[layers[0]]
        by_embedding = wanda.record_prompt(pipeline, embedding, layers[:1], **HOW)[layers[0]]
        np.testing.assert_allclose(by_text, by_embedding, atol=1e-5)

    def test_masks_equal_a_vectorised_form(self, pipeline, layers):
        how = {"ratio": 0.05, "tau": 2, "dtype": np.float64, **HOW}
        targets, layer = ["a red cat", "two dogs"], layers[-1]
        mask = wanda.locate(pipeline, targets, layers=[layer], **how)[layer]
        weight = pipeline.unet.get_submodule(layer).weight.detach().double()
        union = torch.zeros_like(weight, dtype=torch.bool)
        records = [wanda.record_prompt(pipeline, p, [layer], **HOW)[layer] for p in [*targets, ""]]
        for call in range(2):
            rows = [torch.from_numpy(r[call]).double().flatten(0, 1) for r in records]
            units = [nn.functional.normalize(r, dim=1).square().sum(0) for r in rows]
            on, off = (units[0] + units[1]).sqrt(), (2 * units[2]).sqrt()
            best = (weight.abs() * on).topk(int(0.05 * weight.shape[1]), dim=1).indices
            union |= torch.zeros_like(union).scatter(1, best, True) & (on > off)
        assert union.any()
        np.testing.assert_array_equal(mask, union.numpy())

    def test_targets_against_themselves_give_nothing_and_no_hook_stays(self, pipeline, layers):
        masks = wanda.locate(pipeline, [""], layers=layers[:2], ratio=0.1, tau=1, **HOW)
        assert list(masks) == layers[:2]
        assert not any(mask.any() for mask in masks.values())
        assert not any(m._forward_pre_hooks for m in pipeline.unet.modules())


def noise(*shape, name="noise"):
    return torch.rand(shape, generator=generator(0, name))


class TestMsSsim:
    def test_equal_maps_score_one(self):
        np.testing.assert_allclose(ms_ssim(noise(2, 4, 48, 48), noise(2, 4, 48, 48)), 1)

    @pytest.mark.parametrize(("side", "betas"), [(64, (0.33, 0.33, 0.33)), (45, (0.33, 0.33, 0.33)), (32, (0.5, 0.5))])
    def test_the_uncropped_form_is_that_of_later_torchmetrics(self, side, betas):
        a = noise(3, 4, side, side)
        b = (a + 0.3 * noise(3, 4, side, side, name="other")) / 1.3
        theirs = multiscale_structural_similarity_index_measure(a, b, reduction="none", kernel_size=11, betas=betas)
        np.testing.assert_allclose(ms_ssim(a, b, betas=betas, crop=False), theirs.numpy(), rtol=1e-4)

    def test_the_cropped_form_leaves_five_pixels_out_at_one_scale(self):
        a, b = noise(3, 4, 32, 32), noise(3, 4, 32, 32, name="other") + noise(3, 4, 32, 32)
        _, full = structural_similarity_index_measure(a, b, reduction="none", return_full_image=True)
        expected = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3)).numpy()
        np.testing.assert_allclose(ms_ssim(a, b, betas=(1.0,)), expected, rtol=1e-4)

    def test_a_score_depends_on_the_other_pairs_of_the_call(self):
        a, b = noise(2, 1, 48, 48), noise(2, 1, 48, 48, name="other")
        b[1] *= 4
        assert abs(ms_ssim(a, b)[0] - ms_ssim(a[:1], b[:1])[0]) > 1e-3

    def test_small_maps_are_refused(self):
        assert ms_ssim(noise(1, 1, 44, 44), noise(1, 1, 44, 44)).shape == (1,)
        with pytest.raises(ValueError, match="above 40"):
            ms_ssim(noise(1, 1, 43, 43), noise(1, 1, 43, 43))


def block(width):
    attention = nn.ModuleDict({"attn2": nn.ModuleDict({"to_v": nn.Linear(2, width, bias=False)})})
    inner = nn.ModuleDict({"transformer_blocks": nn.ModuleList([attention])})
    return nn.ModuleDict({"attentions": nn.ModuleList([inner])})


class Planted(nn.Module):
    """Draws a pattern as strong as output 3 of the first value layer, over what the noise alone gives."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(sample_size=48, in_channels=2)
        self.down_blocks, self.mid_block = nn.ModuleList([block(6)]), block(4)
        self.asked: list[int] = []
        for layer in nemo.value_layers(self):
            nn.init.eye_(self.get_submodule(layer).weight)
        with torch.no_grad():
            self.get_submodule(nemo.value_layers(self)[0]).weight[3] = torch.tensor([1.0, 0.0])
        self.pattern = noise(2, 48, 48, name="pattern") - 0.5

    def forward(self, latents, t, encoder_hidden_states):
        self.asked.append(int(t))
        first, _ = (self.get_submodule(name)(encoder_hidden_states) for name in nemo.value_layers(self))
        strength = first[:, :, 3].mean(dim=1)[:, None, None, None]
        return SimpleNamespace(sample=latents + strength * self.pattern + 0.1 * latents.flip(-1))


SCHEDULER = DDIMScheduler(steps_offset=1, timestep_spacing="leading", prediction_type="epsilon", clip_sample=False)
FIRST, MIDDLE = nemo.value_layers(Planted())
LOUD, QUIET = torch.tensor([[[9.0, 0.0], [9.0, 1.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 3.0]]])


class TestNemoByHand:
    def test_the_released_timestep_is_the_second_and_the_printed_one_the_first(self):
        unet = Planted()
        for choice in ({}, {"t_index": 0}):
            nemo.noise_difference(unet, SCHEDULER, nemo.initial_latents(unet, 1), QUIET, **choice)
        assert unet.asked == [961, 981]

    def test_min_max_takes_each_channel_of_each_sample_alone(self):
        delta = torch.tensor([[[[0.0, 2.0], [4.0, 8.0]], [[-1.0, 0.0], [0.0, 1.0]]]])
        expected = [[[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.5], [0.5, 1.0]]]]
        assert nemo.min_max(delta).tolist() == expected
        with pytest.raises(ValueError, match="flat"):
            nemo.min_max(torch.ones(1, 1, 2, 2))

    def test_a_predicted_v_is_turned_into_noise(self):
        scheduler = DDIMScheduler(prediction_type="v_prediction")
        image, eps, t = noise(1, 2, 4, 4), noise(1, 2, 4, 4, name="eps"), torch.tensor([700])
        velocity = scheduler.get_velocity(image, eps, t)
        unet = lambda *_, **__: SimpleNamespace(sample=velocity)  # noqa: E731
        found = nemo.predicted_noise(unet, scheduler, scheduler.add_noise(image, eps, t), t, QUIET)
        torch.testing.assert_close(found, eps, atol=1e-5, rtol=1e-5)

    def test_activations_are_means_of_absolute_values_over_all_tokens(self):
        # identity rows 0 and 1, row 3 of the first layer copies input 0: tokens (2, -1) and (-4, 0) give 3 and .5
        found = nemo.token_mean_activations(Planted(), torch.tensor([[[2.0, -1.0], [-4.0, 0.0]]]), [FIRST, MIDDLE])
        assert found[FIRST].tolist() == [3, 0.5, 0, 3, 0, 0]
        assert found[MIDDLE].tolist() == [3, 0.5, 0, 0]

    def test_statistics_are_unbiased(self):
        # token means of input 0 over three prompts: 1, 2, 6; mean 3, variance (4 + 1 + 9) / 2 = 7
        prompts = [torch.full((1, 2, 2), value) for value in (1.0, -2.0, 6.0)]
        means, stds = nemo.activation_statistics(Planted(), prompts, [MIDDLE])
        assert means[MIDDLE].tolist() == [3, 3, 0, 0]
        np.testing.assert_allclose(stds[MIDDLE].numpy(), [7**0.5, 7**0.5, 0, 0], rtol=1e-6)

    @pytest.mark.parametrize(
        ("order", "expected"), [("published", [1, 2, 1, 3]), ("deduplicated", [2, 1, 3]), ("ascending", [1, 2, 3])]
    )
    def test_candidates(self, order, expected):
        # |a - mu| / sigma = 0, 4, 2, 0; the two most active are 1 and 3
        a = {"x": torch.tensor([1.0, 9.0, 4.0, 9.0])}
        means, stds = {"x": torch.tensor([1.0, 1.0, 5.0, 9.0])}, {"x": torch.tensor([1.0, 2.0, 0.5, 1.0])}
        assert nemo.candidates(a, means, stds, theta=1.5, k=2, order=order) == {"x": expected}
        assert nemo.candidates(a, means, stds, theta=2.0, k=0, order=order) == {"x": [1]}  # 2 > 2 is false
        assert set(nemo.candidates(a, means, stds, theta=9.0, k=99, order=order)["x"]) == {0, 1, 2, 3}

    def test_the_search_accepts(self):
        found = nemo.initial_selection(lambda _, k: {"x": list(range(k))}, lambda c: 1 - 0.2 * len(c["x"]))
        assert [(theta, k) for theta, k, _ in found.tried] == [(5, 0), (4.75, 1), (4.5, 2), (4.25, 3)]
        assert (found.neurons, found.threshold, found.gave_up) == ({"x": [0, 1, 2]}, 0.428, False)

    def test_the_search_gives_up_after_sixteen_evaluations(self):
        found = nemo.initial_selection(lambda _, k: {"x": list(range(k))}, lambda _: 0.9)
        assert len(found.tried) == 16
        assert found.tried[-1] == (1.25, 15, 0.9)
        assert (found.threshold, found.gave_up, len(found.neurons["x"])) == (0.9, True, 15)

    def test_a_step_that_misses_the_end_gives_up_too(self):
        found = nemo.initial_selection(lambda _, k: {"x": []}, lambda _: 0.9, theta_step=0.3)
        assert found.tried[-1][:2] == (pytest.approx(1.1), 13)

    def test_acceptance_at_the_last_step_is_no_giving_up(self):
        found = nemo.initial_selection(lambda _, k: {"x": [k]}, lambda c: 0.4 if c["x"] == [15] else 0.9)
        assert (found.gave_up, found.threshold) == (False, 0.428)

    def test_refinement_tries_layers_from_the_last_then_neurons_one_by_one(self):
        asked = []

        def score(neurons):
            asked.append({name: list(chosen) for name, chosen in neurons.items()})
            return 0.3 if 1 in neurons["a"] else 0.9

        assert nemo.refine({"a": [0, 1], "b": [5], "c": []}, score, 0.428) == {"a": [1], "b": [], "c": []}
        tests = [([0, 1], []), ([], []), ([1], []), ([], [])]  # b goes, a stays; then 0 goes, 1 stays
        assert asked == [{"a": a, "b": b, "c": []} for a, b in tests]

    def test_of_two_equal_neurons_the_one_of_the_earlier_layer_stays(self):
        score = lambda c: 0.3 if c["a"] or c["b"] else 0.9  # noqa: E731
        assert nemo.refine({"a": [4], "b": [5]}, score, 0.428) == {"a": [4], "b": []}

    def test_ties_after_giving_up(self):
        assert nemo.refine({"a": [4]}, lambda _: 0.90005, 0.9) == {"a": [4]}
        assert nemo.refine({"a": [4]}, lambda _: 0.90005, 0.9, tie_tolerance=1e-4) == {"a": []}
        assert nemo.refine({"a": [4]}, lambda _: 0.9002, 0.9, tie_tolerance=1e-4) == {"a": [4]}

    def test_best_pairs_and_the_calibrated_threshold(self):
        deltas = torch.stack([noise(1, 48, 48), noise(1, 48, 48), noise(1, 48, 48, name="other")])
        scores = nemo.pair_scores(deltas)
        assert list(scores) == [(0, 1), (0, 2), (1, 2)]
        best = nemo.best_pair_scores(deltas)
        assert best == [pytest.approx(1), pytest.approx(1), max(scores[0, 2], scores[1, 2])]
        assert nemo.kept_seeds(deltas) == [0, 1]
        low = scores[0, 2]  # the only pair of a second prompt: mean and unbiased deviation of (1, low)
        expected = (1 + low) / 2 + (1 - low) / 2**0.5
        assert nemo.calibrated_threshold([deltas, deltas[[0, 2]]]) == pytest.approx(expected, abs=0.02)


class TestNemoOnAModel:
    def test_the_planted_neuron_is_all_that_is_left(self):
        unet = Planted()
        statistics = nemo.activation_statistics(unet, [QUIET, 2 * QUIET], [FIRST, MIDDLE])
        statistics = (statistics[0], {name: std + 1 for name, std in statistics[1].items()})  # none is 0
        found = nemo.locate(unet, SCHEDULER, LOUD, statistics, n=3)
        assert found.kept == [0, 1, 2]
        assert found.selection.neurons[FIRST] == [0, 3]  # inputs copied from the loud one: 9 against 0
        assert found.selection.neurons[MIDDLE] == [0]
        assert found.refined == {FIRST: [3], MIDDLE: []}
        assert found.refined_score <= nemo.THRESHOLD

    def test_a_quiet_prompt_is_not_memorized(self):
        unet = Planted()
        statistics = nemo.activation_statistics(unet, [QUIET, 2 * QUIET], [FIRST, MIDDLE])
        found = nemo.locate(unet, SCHEDULER, QUIET, statistics, n=3)
        assert found == nemo.Located(kept=[], selection=None, refined={FIRST: [], MIDDLE: []}, refined_score=0.0)

    def test_hooks_act_on_a_real_unet_like_zeroed_rows(self):
        with seeded_init(0, "reference"):
            unet = new_unet((16, 16, 32, 32), text_width=8).eval()
        layers = nemo.value_layers(unet)
        assert [name.split(".")[0] for name in layers] == ["down_blocks", "down_blocks", "down_blocks", "mid_block"]
        embedding, latents = noise(1, 5, 8), nemo.initial_latents(unet, 2)
        means = nemo.token_mean_activations(unet, embedding, layers)
        for name in layers:  # a value layer sees the text alone
            direct = unet.get_submodule(name)(embedding)[0].abs().mean(0).detach()
            torch.testing.assert_close(means[name], direct)
        plain = nemo.noise_difference(unet, SCHEDULER, latents, embedding)
        hooked = nemo.noise_difference(unet, SCHEDULER, latents, embedding, neurons={layers[0]: [1, 7]})
        torch.testing.assert_close(nemo.noise_difference(unet, SCHEDULER, latents, embedding), plain)
        with torch.no_grad():
            unet.get_submodule(layers[0]).weight[[1, 7]] = 0
        zeroed = nemo.noise_difference(unet, SCHEDULER, latents, embedding)
        torch.testing.assert_close(hooked, zeroed)
        assert (hooked - plain).abs().max() > 1e-5

    def test_giving_up_on_a_real_unet_refines_against_its_own_score(self):
        with seeded_init(0, "reference"):
            unet = new_unet((16, 16, 32, 32), size=48, text_width=8).eval()
        layers, prompts = nemo.value_layers(unet), [noise(1, 5, 8, name=name) for name in "abc"]
        statistics = nemo.activation_statistics(unet, prompts[1:], layers)
        how = {"n": 2, "pair_threshold": -1, "accept": -1, "search": {"theta": 1.5, "k": 1}}
        found = nemo.locate(unet, SCHEDULER, prompts[0], statistics, **how)
        assert found.kept == [0, 1]
        assert [(theta, k) for theta, k, _ in found.selection.tried] == [(1.5, 1), (1.25, 2)]
        assert found.selection.gave_up
        assert found.selection.threshold == found.selection.score < 1
        assert all(set(found.refined[name]) <= set(found.selection.neurons[name]) for name in layers)
