import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from amnestic.core.edits import Change, Edit, changes_from
from amnestic.core.errors import InputError
from amnestic.core.records import MethodSpec
from amnestic.core.units import Units
from amnestic.model.edits import apply, edited, scaling, touched
from amnestic.model.sites import sites
from amnestic.model.taps import scaled
from amnestic.model.target import PipelineTarget

SPEC = MethodSpec(name="a-test")


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@pytest.fixture
def unet(target):
    before = {k: v.clone() for k, v in target.pipeline.unet.state_dict().items()}
    yield target.pipeline.unet
    for name, tensor in target.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def drawn(unet, kind, share=0.2, seed=0):
    """A random choice of units."""
    rng, found = torch.Generator().manual_seed(seed), sites(unet, kind)
    masks = {s.name: torch.rand(s.shape, generator=rng) < share for s in found}
    return Units(sites=found, masks=masks, model="m")


def edit_of(changes):
    return Edit(model="m", changes=changes, made_by=SPEC)


def answer(unet):
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2, unet.config.in_channels, 16, 16, generator=rng)
    cond = torch.randn(2, 5, unet.config.cross_attention_dim, generator=rng)
    with torch.no_grad():
        return unet(x, torch.tensor(500), encoder_hidden_states=cond).sample


@pytest.mark.parametrize("kind", ["ffn", "value", "key"])
@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_scaled_weights_do_what_a_tap_does(unet, kind, factor):
    units = drawn(unet, kind)
    with scaled(unet, units, factor):
        wanted = answer(unet)
    with edited(unet, edit_of(scaling(unet, units, factor))):
        got = answer(unet)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert (got - answer(unet)).abs().max() > 1e-6


def test_the_places_of_weights_are_their_mask(unet):
    units = drawn(unet, "ffn-weight", share=0.01)
    with edited(unet, edit_of(scaling(unet, units, 0.0))):
        for site in units.sites:
            weight = unet.get_submodule(site.name).weight
            assert not weight[units.masks[site.name]].any()
            assert weight[~units.masks[site.name]].all()


def test_what_is_removed_is_plain_zero(unet):
    changes = scaling(unet, drawn(unet, "ffn-weight"), 0.0)
    assert all(not torch.signbit(change.after).any() for change in changes.values())


def test_layers_without_a_choice_are_not_touched(unet):
    units = drawn(unet, "value", share=0.0)
    assert touched(unet, units) == {}
    assert len(edit_of(scaling(unet, units, 0.0))) == 0


@pytest.mark.parametrize("kind", ["ffn", "ffn-weight", "value"])
def test_an_edit_is_taken_back_bit_for_bit_also_after_an_error(unet, kind):
    with pytest.raises(RuntimeError, match="inside"), edited(unet, edit_of(scaling(unet, drawn(unet, kind), 0.3))):
        raise RuntimeError("inside")  # the fixture compares all weights


def test_edits_are_stacked_and_taken_back_in_turn(unet):
    one = edit_of(scaling(unet, drawn(unet, "value", seed=1), 0.0))
    with edited(unet, one):
        two = edit_of(scaling(unet, drawn(unet, "ffn-weight", seed=2), 0.0))
        with edited(unet, two):
            pass
    with pytest.raises(InputError, match="holds other values"), edited(unet, one), edited(unet, one):
        pass


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.integers(1, 30))
def test_inverse_of_the_inverse_is_the_edit(data, size):
    weight = torch.tensor(data.draw(st.lists(st.floats(width=32), min_size=size, max_size=size)))
    at = torch.tensor(sorted(data.draw(st.sets(st.integers(0, size - 1)))), dtype=torch.int64)
    module = nn.Module()
    module.w = nn.Parameter(weight.clone())
    edit = edit_of({"w": Change(at=at, before=weight[at], after=torch.zeros(len(at)))})
    apply(module, edit)
    assert not module.w[at].any()
    apply(module, edit.inverse())
    assert torch.equal(module.w.detach().view(torch.uint8), weight.view(torch.uint8))
    apply(module, edit.inverse().inverse())


def test_a_file_gives_back_the_edit(unet):
    edit = edit_of(scaling(unet, drawn(unet, "ffn-weight"), 0.0))
    again = edit_of(changes_from(load(save(edit.tensors()))))
    assert again.changes.keys() == edit.changes.keys()
    for path, change in edit.changes.items():
        assert all(torch.equal(getattr(change, k), getattr(again.changes[path], k)) for k in ("at", "before", "after"))
    with edited(unet, again):
        pass


def test_half_a_file_is_refused(unet):
    tensors = edit_of(scaling(unet, drawn(unet, "value"), 0.0)).tensors()
    lost = next(name for name in tensors if name.startswith("after."))
    del tensors[lost]
    with pytest.raises(InputError, match=f"{lost} has no partner"):
        changes_from(tensors)


class TestOtherModels:
    def change(self, unet, path="mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"):
        weight = unet.get_parameter(path).detach().reshape(-1)
        return path, Change(at=torch.tensor([1, 3]), before=weight[[1, 3]].clone(), after=torch.zeros(2))

    def refused(self, unet, path, change, said):
        with pytest.raises(InputError, match=said):
            apply(unet, edit_of({path: change}))

    def test_other_values(self, unet):
        path, change = self.change(unet)
        other = Change(at=change.at, before=change.before + 1, after=change.after)
        self.refused(unet, path, other, "holds other values than the edit was made for")

    def test_another_precision(self, unet):
        path, change = self.change(unet)
        half = Change(at=change.at, before=change.before.half(), after=change.after.half())
        self.refused(unet, path, half, "made in float16.*is in float32")

    def test_a_layer_that_is_not_there(self, unet):
        path, change = self.change(unet)
        self.refused(unet, path.replace("to_v", "to_w"), change, "lacks; did you mean mid_block")

    def test_a_smaller_layer(self, unet):
        path, change = self.change(unet)
        far = Change(at=torch.tensor([1, 10**9]), before=change.before, after=change.after)
        self.refused(unet, path, far, "beyond the end")

    def test_nothing_is_changed_when_one_part_does_not_fit(self, unet):
        path, change = self.change(unet)
        wrong = Change(at=torch.tensor([0]), before=torch.tensor([99.0]), after=torch.zeros(1))
        with pytest.raises(InputError):
            apply(unet, edit_of({path: change, "conv_in.weight": wrong}))  # the fixture compares all weights


@pytest.mark.parametrize(
    ("at", "values", "said"),
    [([1, 0], 2, "ascending places"), ([1, 1], 2, "ascending places"), ([0, 1], 3, "of one length")],
)
def test_parts_that_do_not_belong_together_are_refused(at, values, said):
    with pytest.raises(InputError, match=said):
        edit_of({"w": Change(at=torch.tensor(at), before=torch.zeros(values), after=torch.zeros(values))})
