"""What every registered mitigation must keep to, and what each of them does."""

from contextlib import contextmanager

import pytest
import torch

from amnestic.core.edits import Change
from amnestic.core.errors import InputError, NotFinite
from amnestic.core.registry import build, methods
from amnestic.core.units import KINDS, Units
from amnestic.measures.traces import telling
from amnestic.mitigations.pruning.zero_units import ZeroUnits
from amnestic.model.target import PipelineTarget

NAMES = sorted(methods("mitigation"))


@pytest.fixture(scope="module")
def target(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


def drawn(target, kind, share=0.3, seed=0):
    rng, found = torch.Generator().manual_seed(seed), target.sites(kind)
    masks = {s.name: torch.rand(s.shape, generator=rng) < share for s in found}
    return Units(sites=found, masks=masks, model=target.ident.digest)


@contextmanager
def unchanged(target):
    before = {k: v.clone() for k, v in target.pipeline.unet.state_dict().items()}
    yield before
    after = target.pipeline.unet.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
class TestEveryMitigation:
    def test_touches_nothing_but_the_weights_of_the_units(self, target, name, kind):
        units, method = drawn(target, kind), build("mitigation", name)
        with unchanged(target) as before:
            edit = method(target, units)
            allowed = target.touched(units)
            assert set(edit.changes) <= set(allowed)
            with target.edited(edit) as after:
                for path, tensor in after.pipeline.unet.state_dict().items():
                    differs = (tensor != before[path]).reshape(-1).nonzero().flatten().tolist()
                    assert set(differs) <= set(allowed.get(path, torch.empty(0)).tolist()), path

    def test_is_undone_bit_for_bit_and_known_by_its_weights(self, target, name, kind):
        edit = build("mitigation", name)(target, drawn(target, kind))
        with unchanged(target), target.edited(edit) as after:
            assert after.ident.digest != target.ident.digest
            with target.edited(edit.inverse()) as again:
                assert again.ident.digest == target.ident.digest

    def test_says_the_same_twice(self, target, name, kind):
        one, other = (build("mitigation", name)(target, drawn(target, kind)) for _ in range(2))
        assert all(torch.equal(one.changes[p].after, other.changes[p].after) for p in one.changes)

    def test_no_units_give_an_edit_without_changes(self, target, name, kind):
        assert len(build("mitigation", name)(target, drawn(target, kind, share=0.0))) == 0

    def test_units_of_another_model_are_refused(self, target, name, kind):
        units = drawn(target, kind)
        other = Units(sites=units.sites, masks=units.masks, model="0" * 64)
        with pytest.raises(InputError, match="locate again on this model"):
            build("mitigation", name)(target, other)


def test_zeroed_neurons_are_silent(target):
    units = drawn(target, "value")
    with target.edited(build("mitigation", "zero-units")(target, units)) as after:
        cond = after.encode(["a red cat"])
        for site in units.sites:
            said = after.through(site, cond)[..., units.masks[site.name]]
            assert not said.any()
            assert after.through(site, cond).any()


@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0])
def test_scaled_neurons_say_a_multiple(target, factor):
    units, cond = drawn(target, "value"), target.encode(["a red cat"])
    plain = {s: target.through(s, cond) for s in units.sites}
    with target.edited(build("mitigation", "scale-units", {"factor": factor})(target, units)) as after:
        for site, said in plain.items():
            wanted = torch.where(units.masks[site.name], factor * said, said)
            torch.testing.assert_close(after.through(site, cond), wanted, atol=1e-6, rtol=1e-5)


class TestConcealUnits:
    def edit(self, target, **options):
        return build("mitigation", "conceal-units", options)(target, drawn(target, "ffn-weight"))

    def test_leaves_no_zero(self, target):
        for change in self.edit(target).changes.values():
            assert bool((change.after != 0).all())

    def test_values_are_sizes_that_occur_among_the_smallest_left(self, target):
        for path, change in self.edit(target, quantile=0.2).changes.items():
            sizes = target.parameter(path).reshape(-1).abs()
            stays = torch.ones(len(sizes), dtype=torch.bool)
            stays[change.at] = False
            left = sizes[stays & (sizes > 0)].sort().values
            assert float(change.after.abs().max()) <= float(left[int(0.2 * len(left)) - 1])
            assert bool(torch.isin(change.after.abs(), left).all())
            assert bool((change.after > 0).any())
            assert bool((change.after < 0).any())

    def test_the_larger_the_quantile_the_less_is_told(self, target):
        told = []
        for quantile in (0.05, 0.3, 1.0):
            edit = self.edit(target, quantile=quantile)
            path = max(edit.changes, key=lambda p, edit=edit: len(edit.changes[p].at))
            with target.edited(edit) as after:
                told.append(telling(after.parameter(path), edit.changes[path].at))
        assert [t.exact_zeros for t in told] == [0, 0, 0]
        assert told[0].auc_of_smallness > 0.9 > told[1].auc_of_smallness > 0.6
        assert told[2].auc_of_smallness == pytest.approx(0.5, abs=0.05)

    @pytest.mark.parametrize("quantile", [0, 1.1])
    def test_settings_without_meaning_are_refused(self, quantile):
        with pytest.raises(InputError, match="quantile must lie in"):
            build("mitigation", "conceal-units", {"quantile": quantile})


def test_zeros_are_told_at_once(target):
    edit = build("mitigation", "zero-units")(target, drawn(target, "ffn-weight"))
    with target.edited(edit) as after:
        for path, change in edit.changes.items():
            found = telling(after.parameter(path), change.at)
            assert (found.exact_zeros, found.auc_of_smallness) == (1.0, 1.0)


def changing(target, path, at, after):
    """A mitigation that does something it should not."""

    class Bad(ZeroUnits):
        def make(self, target, units):
            before = target.parameter(path).reshape(-1)[at].clone()
            return {path: Change(at=at, before=before, after=torch.full_like(before, after))}

    return Bad()


def test_the_base_refuses_weights_that_are_not_the_units(target):
    units = drawn(target, "value", share=0.0)
    bad = changing(target, f"{units.sites[0].name}.weight", torch.tensor([0]), 1.0)
    with pytest.raises(InputError, match="do not belong to the units"):
        bad(target, units)


def test_the_base_refuses_what_is_not_finite(target):
    units = drawn(target, "value", share=1.0)
    bad = changing(target, f"{units.sites[0].name}.weight", torch.tensor([0]), float("nan"))
    with pytest.raises(NotFinite, match="gives NaN"):
        bad(target, units)
