"""Random units, outliers of value activity, and the difference of mean activity."""

import pytest
import torch
from reference import nemo_literal

from amnestic.core.errors import InputError
from amnestic.core.methods import Case
from amnestic.core.records import Prompt, Sampling, Unit
from amnestic.core.registry import build
from amnestic.model.target import PipelineTarget

HOW = Sampling(num_inference_steps=4, guidance_scale=3.0)


def prompts(*texts):
    return tuple(Prompt(id=f"p{i}", prompt=text) for i, text in enumerate(texts))


MEMORIZED = prompts("a red cat on a blue mat", "two dogs", "a green tree")
CONTROLS = prompts("a mat", "a red dog under a tree", "two cats", "a blue tree", "green")
CASE = Case(memorized=MEMORIZED, controls=CONTROLS, sampling=HOW)


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


class TestRandomUnits:
    @pytest.mark.parametrize("where", ["ffn", "ffn-weight", "value", "key"])
    def test_a_share_of_every_site_is_drawn(self, target, where):
        units = build("localizer", "random-units", {"where": where, "share": 0.25})(target, CASE).units
        assert units.sites == target.sites(where)
        for site in units.sites:
            assert int(units.masks[site.name].sum()) == round(0.25 * site.size)

    def test_counts_decide_site_by_site(self, target):
        names = [s.name for s in target.sites("ffn")]
        method = build("localizer", "random-units", {"where": "ffn", "counts": {names[0]: 3, names[-1]: 1}})
        masks = method(target, CASE).units.masks
        assert [int(masks[name].sum()) for name in names] == [3, *[0] * (len(names) - 2), 1]

    def test_the_seed_decides_and_the_prompts_do_not(self, target):
        def drawn(seed, case=CASE):
            return build("localizer", "random-units", {"share": 0.1, "seed": seed})(target, case).units.masks

        one, same, other = drawn(0), drawn(0, Case(memorized=MEMORIZED[:1])), drawn(1)
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_sites_are_drawn_independently(self, target):
        masks = build("localizer", "random-units", {"where": "value", "share": 0.5})(target, CASE).units.masks
        alike = [m for m in masks.values() if len(m) == 16]
        assert len({tuple(m.tolist()) for m in alike}) == len(alike) > 1

    def test_counts_for_a_layer_that_is_not_there_are_refused(self, target):
        name = target.sites("ffn")[0].name
        with pytest.raises(InputError, match=f"did you mean {name}"):
            build("localizer", "random-units", {"where": "ffn", "counts": {name + "x": 1}})(target, CASE)
        with pytest.raises(InputError, match="expected between 0 and"):
            build("localizer", "random-units", {"where": "ffn", "counts": {name: 10**6}})(target, CASE)

    @pytest.mark.parametrize("options", [{"where": "ffm"}, {"share": 1.5}, {"share": -0.1}])
    def test_settings_without_meaning_are_refused(self, options):
        with pytest.raises(InputError, match="refuses its settings"):
            build("localizer", "random-units", options)


class TestValueZscore:
    @pytest.mark.parametrize("theta", [0.5, 1.5])
    def test_neurons_are_the_outliers_of_the_paper(self, target, theta):
        """Against the slow implementation of NeMo's statistics, prompt by prompt."""
        unet, names = target.pipeline.unet, nemo_literal.value_layers(target.pipeline.unet)
        embed = {p.prompt: target.encode([p.prompt]) for p in (*MEMORIZED, *CONTROLS)}
        usual, deviations = nemo_literal.activation_statistics(unet, [embed[p.prompt] for p in CONTROLS], names)
        found = build("localizer", "value-zscore", {"theta": theta})(target, CASE)
        wanted = {name: set() for name in names}
        for prompt in MEMORIZED:
            means = nemo_literal.token_mean_activations(unet, embed[prompt.prompt], names)
            for name in names:
                z = (means[name] - usual[name]).abs() / deviations[name]
                wanted[name] |= set((z > theta).nonzero().flatten().tolist())
        got = {name: set(m.nonzero().flatten().tolist()) for name, m in found.units.masks.items()}
        assert {name: chosen for name, chosen in got.items() if chosen} == {n: w for n, w in wanted.items() if w}
        assert found.passes == 0
        assert sum(found.notes["neurons"].values()) >= len(found.units) > 0

    def test_a_bound_out_of_reach_finds_nothing(self, target):
        assert build("localizer", "value-zscore", {"theta": 1e6})(target, CASE).outcome == "found nothing"

    def test_up_blocks_are_looked_at_when_asked(self, target):
        units = build("localizer", "value-zscore", {"theta": 0.5, "layers": "all"})(target, CASE).units
        assert any(units.masks[s.name].any() for s in units.sites if s.stage == "up")

    def test_two_controls_are_the_least(self, target):
        with pytest.raises(InputError, match="at least two non-memorized prompts"):
            build("localizer", "value-zscore")(target, Case(memorized=MEMORIZED, controls=CONTROLS[:1]))


class TestActivationContrast:
    def literal(self, target, texts, tau):
        """Means from stored activations, one prompt at a time."""
        unet, sites = target.pipeline.unet, target.sites("ffn")
        kept = {site.name: [] for site in sites}
        hooks = [
            unet.get_submodule(site.name).register_forward_pre_hook(
                lambda _, inputs, name=site.name: kept[name].append(inputs[0].chunk(2)[1].detach())
            )
            for site in sites
        ]
        for text in texts:
            target.sample([Unit("activation-contrast", 0)], [text], HOW, stop_after=tau)
        for hook in hooks:
            hook.remove()
        return {name: torch.cat(rows).abs().flatten(end_dim=-2).mean(dim=0) for name, rows in kept.items()}

    def test_neurons_are_those_that_rise_most(self, target):
        found = build("localizer", "activation-contrast", {"share": 0.1, "tau": 2})(target, CASE)
        ours, theirs = (self.literal(target, [p.prompt for p in part], 2) for part in (MEMORIZED, CONTROLS))
        for site in found.units.sites:
            rise = ours[site.name] - theirs[site.name]
            torch.testing.assert_close(found.tensors[f"rise.{site.name}"], rise, atol=1e-5, rtol=1e-3)
            wanted = {int(i) for i in rise.topk(int(0.1 * site.size)).indices if rise[i] > 0}
            assert set(found.units.masks[site.name].nonzero().flatten().tolist()) == wanted
        assert found.passes == (3 + 5) * 2 * 2

    def test_the_same_prompts_on_both_sides_give_nothing(self, target):
        same = Case(memorized=MEMORIZED, controls=MEMORIZED, sampling=HOW)
        assert build("localizer", "activation-contrast", {"tau": 1})(target, same).outcome == "found nothing"

    def test_controls_are_needed(self, target):
        with pytest.raises(InputError, match="add controls"):
            build("localizer", "activation-contrast")(target, Case(memorized=MEMORIZED, sampling=HOW))
