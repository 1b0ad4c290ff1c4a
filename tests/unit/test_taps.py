import pytest
import torch
from torch import nn

from amnestic.core.errors import InputError, UnsupportedModel
from amnestic.core.units import Site, Units
from amnestic.model.sites import layer, sites
from amnestic.model.taps import TapNeverFired, attributed, masked, record, scaled
from amnestic.model.target import PipelineTarget


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@pytest.fixture
def unet(target):
    unet = target.pipeline.unet
    yield unet
    left = [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not left


def run(unet, rows=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, unet.config.in_channels, 16, 16, generator=rng)
    cond = torch.randn(rows, 5, unet.config.cross_attention_dim, generator=rng)
    with torch.no_grad():
        return unet(x, torch.full((rows,), 500), encoder_hidden_states=cond).sample


def drop(_):
    """Keep nothing."""


class TestSites:
    @pytest.mark.parametrize(
        ("kind", "ending"),
        [("ffn", "ff.net.2"), ("ffn-weight", "ff.net.2"), ("value", "attn2.to_v"), ("key", "attn2.to_k")],
    )
    def test_every_transformer_block_has_one(self, unet, kind, ending):
        found = sites(unet, kind)
        assert len(found) == 3 + 1 + 6
        assert [s.stage for s in found] == ["down"] * 3 + ["mid"] + ["up"] * 6
        assert all(s.name.endswith(ending) and s.kind == kind for s in found)
        for site in found:
            linear = layer(unet, site)
            wanted = {"ffn": (linear.in_features,), "ffn-weight": tuple(linear.weight.shape)}
            assert site.shape == wanted.get(kind, (linear.out_features,))

    def test_they_come_in_the_order_in_which_they_compute(self, unet):
        seen, found = [], sites(unet, "value")
        with record(unet, found[::-1], lambda passing: seen.append(passing.site)):
            run(unet)
        assert tuple(seen) == found

    def test_an_unknown_kind_is_told(self, unet):
        with pytest.raises(UnsupportedModel, match="did you mean value"):
            sites(unet, "valeu")

    def test_a_model_without_blocks_is_refused(self):
        with pytest.raises(UnsupportedModel, match="found none in Linear"):
            sites(nn.Linear(2, 2), "ffn")

    def test_fused_projections_are_refused(self, tiny_pipeline):
        pipeline = PipelineTarget.load(tiny_pipeline).pipeline
        pipeline.fuse_qkv_projections(vae=False)
        with pytest.raises(UnsupportedModel, match="unfuse_qkv_projections"):
            sites(pipeline.unet, "value")

    def test_a_wrapped_layer_is_refused(self, tiny_pipeline):
        class Wrapped(nn.Linear):
            """Stands for a layer with an adapter."""

        unet = PipelineTarget.load(tiny_pipeline).pipeline.unet
        old = layer(unet, sites(unet, "ffn")[0])
        unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2] = Wrapped(old.in_features, old.out_features)
        with pytest.raises(UnsupportedModel, match="LoRA"):
            sites(unet, "ffn")


class TestRecord:
    def test_what_is_shown_is_what_the_layer_saw(self, unet):
        for kind in ("ffn", "value"):
            site, seen = sites(unet, kind)[1], []
            kept = []
            handle = layer(unet, site).register_forward_hook(
                lambda m, i, o, kind=kind, kept=kept: kept.append(i[0] if kind == "ffn" else o)
            )
            with record(unet, [site], seen.append):
                run(unet)
            handle.remove()
            assert torch.equal(seen[0].conditional, kept[0])
            assert seen[0].conditional.shape[0] == 2
            assert len(seen[0].unconditional) == 0

    def test_halves_and_steps_are_labelled(self, unet):
        seen, site = [], sites(unet, "value")[0]
        with record(unet, [site], seen.append) as tape:
            for _ in range(2):
                tape.start(guided=True)
                run(unet, rows=4)
                run(unet, rows=4)
            tape.start(guided=False)
            run(unet, rows=4)
        assert [p.step for p in seen] == [0, 1, 0, 1, 0]
        assert [(len(p.conditional), len(p.unconditional)) for p in seen] == [(2, 2)] * 4 + [(4, 0)]
        assert torch.equal(seen[0].unconditional, seen[4].conditional[:2])  # diffusers puts the empty prompt first
        assert torch.equal(seen[0].conditional, seen[4].conditional[2:])

    def test_a_tap_through_which_nothing_passed_says_why(self, unet):
        with pytest.raises(TapNeverFired, match="fused"), record(unet, sites(unet, "ffn"), drop):
            pass

    def test_an_exception_inside_is_not_covered_up(self, unet):
        with pytest.raises(KeyError), record(unet, sites(unet, "ffn"), drop):
            raise KeyError

    def test_an_exception_of_the_reduction_leaves_nothing(self, unet):
        def fail(_):
            raise ArithmeticError

        with pytest.raises(ArithmeticError), record(unet, sites(unet, "ffn"), fail):
            run(unet)

    def test_nothing_of_the_result_changes(self, unet):
        before = run(unet)
        with record(unet, [*sites(unet, "ffn"), *sites(unet, "value")], drop):
            assert torch.equal(run(unet), before)


class TestAttributed:
    @staticmethod
    def forward(unet, rows=2, seed=0):
        """Output, and latents and conditioning that require a gradient."""
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, unet.config.in_channels, 16, 16, generator=rng).requires_grad_()
        cond = torch.randn(rows, 5, unet.config.cross_attention_dim, generator=rng).requires_grad_()
        return unet(x, torch.full((rows,), 500), encoder_hidden_states=cond).sample, x, cond

    def backward(self, unet, loss=lambda out, _x: out.sum()):
        """Gradient of the latents alone."""
        out, x, _ = self.forward(unet)
        return torch.autograd.grad(loss(out, x), x)[0]

    @pytest.mark.parametrize("kind", ["ffn", "value", "key"])
    def test_products_are_those_of_retained_gradients(self, unet, kind):
        found, kept, seen = sites(unet, kind), {}, []

        def hold(module, inputs, output):
            kept[module] = inputs[0] if kind == "ffn" else output
            kept[module].retain_grad()

        handles = [layer(unet, site).register_forward_hook(hold) for site in found]
        with attributed(unet, found, seen.append):
            out, x, cond = self.forward(unet)
            torch.autograd.backward(out.square().sum(), inputs=[x, cond])
        for handle in handles:
            handle.remove()
        assert sorted(p.site.name for p in seen) == sorted(s.name for s in found)
        for passing in seen:
            values = kept[layer(unet, passing.site)]
            torch.testing.assert_close(passing.conditional, (values * values.grad).detach())
            assert passing.conditional.abs().max() > 0
            assert not passing.conditional.requires_grad
            assert (passing.step, len(passing.unconditional)) == (0, 0)

    def test_every_call_keeps_its_step(self, unet):
        site, steps = sites(unet, "ffn")[0], []
        with attributed(unet, [site], lambda passing: steps.append(passing.step)):
            (first, x, _), (second, y, _) = self.forward(unet), self.forward(unet, seed=1)
            torch.autograd.grad(second.sum(), y)
            torch.autograd.grad(first.sum(), x)
        assert steps == [1, 0]

    def test_nothing_of_the_result_changes(self, unet):
        out, x, _ = self.forward(unet)
        before = torch.autograd.grad(out.sum(), x)[0]
        with attributed(unet, sites(unet, "ffn"), drop):
            same, y, _ = self.forward(unet)
            assert torch.equal(same, out)
            assert torch.equal(torch.autograd.grad(same.sum(), y)[0], before)

    def test_without_a_backward_pass_nothing_fires(self, unet):
        with pytest.raises(TapNeverFired, match="no gradient reached"), attributed(unet, sites(unet, "ffn"), drop):
            self.forward(unet)

    def test_a_loss_that_does_not_depend_on_a_site_is_told(self, unet):
        with pytest.raises(TapNeverFired, match="does not depend"), attributed(unet, sites(unet, "ffn"), drop):
            self.backward(unet, lambda _out, x: x.sum())

    def test_values_hang_on_the_conditioning_alone(self, unet):
        tap = attributed(unet, sites(unet, "value")[:1], drop)
        with pytest.raises(TapNeverFired, match=r"attn2\.to_v: the loss does not depend"), tap:
            self.backward(unet)

    def test_where_nothing_requires_a_gradient_is_told_at_once(self, tiny_pipeline, unet):
        with pytest.raises(TapNeverFired, match="enable_grad"), attributed(unet, sites(unet, "ffn"), drop):
            run(unet)
        frozen = PipelineTarget.load(tiny_pipeline).pipeline.unet.requires_grad_(False)
        x, cond = (
            torch.zeros(1, frozen.config.in_channels, 16, 16),
            torch.zeros(1, 5, frozen.config.cross_attention_dim),
        )
        with pytest.raises(TapNeverFired, match="let the latents"), attributed(frozen, sites(frozen, "ffn"), drop):
            frozen(x, 500, encoder_hidden_states=cond)
        assert not [m for m in frozen.modules() if m._forward_hooks or m._forward_pre_hooks]

    def test_exceptions_are_not_covered_up_and_leave_nothing(self, unet):
        def fail(_):
            raise ArithmeticError

        with pytest.raises(KeyError), attributed(unet, sites(unet, "ffn"), drop):
            raise KeyError
        with pytest.raises(ArithmeticError), attributed(unet, sites(unet, "ffn"), fail):
            self.backward(unet)

    def test_a_graph_that_outlives_the_tap_is_silent(self, unet):
        seen = []
        with attributed(unet, sites(unet, "ffn")[:1], seen.append):
            out, x, _ = self.forward(unet)
            torch.autograd.grad(out.sum(), x, retain_graph=True)
        torch.autograd.grad(out.sum(), x)
        assert len(seen) == 1


class TestScaled:
    @staticmethod
    def units(unet, kind, chosen):
        found = sites(unet, kind)
        masks = {s.name: torch.zeros(s.shape, dtype=torch.bool) for s in found}
        for site, index in chosen.items():
            masks[found[site].name][index] = True
        return Units(sites=found, masks=masks, model="m")

    @pytest.mark.parametrize("kind", ["value", "key"])
    def test_silenced_neurons_equal_zeroed_rows(self, tiny_pipeline, unet, kind):
        units = self.units(unet, kind, {0: [1, 3], 3: [0]})
        with scaled(unet, units):
            ours = run(unet)
        other = PipelineTarget.load(tiny_pipeline).pipeline.unet
        for site in units.sites:
            layer(other, site).weight.data[units.masks[site.name]] = 0
        torch.testing.assert_close(ours, run(other))
        assert not torch.equal(ours, run(unet))

    def test_silenced_inputs_equal_zeroed_columns(self, tiny_pipeline, unet):
        units = self.units(unet, "ffn", {2: [0, 5, 6]})
        with scaled(unet, units):
            ours = run(unet)
        other = PipelineTarget.load(tiny_pipeline).pipeline.unet
        layer(other, units.sites[2]).weight.data[:, units.masks[units.sites[2].name]] = 0
        torch.testing.assert_close(ours, run(other))

    def test_every_row_may_have_factors_of_its_own(self, unet):
        site = sites(unet, "value")[2]
        factors = torch.ones(2, *site.shape)
        factors[1] = 0
        before = run(unet)
        with masked(unet, {site: factors}):
            mixed = run(unet)
        with masked(unet, {site: torch.zeros(site.shape)}):
            silent = run(unet)
        torch.testing.assert_close(mixed[0], before[0])
        torch.testing.assert_close(mixed[1], silent[1])
        assert not torch.allclose(mixed[1], before[1])

    def test_a_factor_of_one_changes_nothing(self, unet):
        before = run(unet)
        with scaled(unet, self.units(unet, "value", {0: [0]}), 1.0):
            assert torch.equal(run(unet), before)

    def test_nested_taps_remove_only_their_own(self, unet):
        before, one, two = run(unet), self.units(unet, "value", {0: [0]}), self.units(unet, "value", {1: [1]})
        with scaled(unet, one):
            outer = run(unet)
            with scaled(unet, two):
                assert not torch.equal(run(unet), outer)
            assert torch.equal(run(unet), outer)
        assert torch.equal(run(unet), before)

    def test_weights_are_refused(self, unet):
        site = sites(unet, "ffn-weight")[0]
        units = Units(sites=(site,), masks={site.name: torch.ones(site.shape, dtype=torch.bool)}, model="m")
        with pytest.raises(InputError, match="make an edit"), scaled(unet, units):
            pass


class TestUnits:
    SITE = Site(name="a.to_v", kind="value", stage="mid", shape=(4,))

    def test_they_are_counted(self):
        units = Units(sites=(self.SITE,), masks={"a.to_v": torch.tensor([True, False, False, True])}, model="m")
        assert (len(units), units.share, self.SITE.size) == (2, 0.5, 4)

    @pytest.mark.parametrize(
        "masks",
        [{}, {"a.to_v": torch.ones(4)}, {"a.to_v": torch.ones(3, dtype=torch.bool)},
         {"a.to_v": torch.ones(4, dtype=torch.bool), "b": torch.ones(4, dtype=torch.bool)}],
    )  # fmt: skip
    def test_masks_that_do_not_fit_are_refused(self, masks):
        with pytest.raises(InputError):
            Units(sites=(self.SITE,), masks=masks, model="m")
