"""One edit out of a chain: the model that the others make, bit for bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from amnestic.core.edit_file import FINETUNED, HEADER, load_edit, read_header, save_edit
from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import MethodSpec, plain
from amnestic.core.registry import build
from amnestic.core.store import Record, Run
from amnestic.core.units import Units
from amnestic.model.target import PipelineTarget
from amnestic.stages.pruning import edit_path, write_model
from amnestic.stages.rolling_back import RollBackRequest, roll_back


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


class Chain:
    """A model and what was cut out of it, one after the other; each edit is kept in a run of its own."""

    def __init__(self, base, folder):
        self.models, self.runs, self.edits, self.folder = [base], [], [], folder

    def cut(self, places, method="zero-units", **options):
        """Neurons of the first value projection are changed."""
        number = len(self.models)
        target = PipelineTarget.load(self.models[-1])
        sites = target.sites("value")
        masks = {s.name: torch.zeros(s.shape, dtype=torch.bool) for s in sites}
        masks[sites[0].name][list(places)] = True
        units = Units(sites=sites, masks=masks, model=target.ident.digest)
        run = Run.start(self.folder / f"run-{number}", {"stage": "audit", "number": number})
        record = Record(
            stage="locate", made_by=MethodSpec(name="by-hand"), parents=(str(number),),
            data={"sites": plain(sites), "model": units.model},
            tensors={f"mask.{k}": v for k, v in units.packed().items()},
        )  # fmt: skip
        run.save(record)
        edit = build("mitigation", method, options)(target, units, parents=(record.id,))
        name, out = f"edit-{number}", self.folder / f"model-{number}"
        with target.edited(edit) as after:
            save_edit(edit_path(run, name), edit, {"edit": name, "result": after.ident.digest, "works": []})
            write_model(after, out, {
                "schema": 1, "edit": name, "model": edit.model, "result": after.ident.digest, "dtype": "float32",
                "method": method, "weights": len(edit),
            })  # fmt: skip
        self.models.append(out)
        self.runs.append(run.folder)
        self.edits.append(edit)
        return self

    def without(self, number, name="rolled", model=None):
        out = self.folder / name
        asked = RollBackRequest(
            model=model or self.models[-1], take_back=str(self.models[number]), runs=tuple(self.runs), out=out,
            device="cpu",
        )  # fmt: skip
        return roll_back(asked), out

    def expected(self, *edits):
        """The base with these edits put in place by hand."""
        found = weights(self.models[0])
        for edit in edits:
            for path, change in edit.changes.items():
                found[path].view(-1)[change.at] = change.after
        return found


def assert_same(folder, expected):
    found = weights(folder)
    assert found.keys() == expected.keys()
    assert [k for k in found if not torch.equal(found[k].view(torch.uint8), expected[k].view(torch.uint8))] == []


@pytest.fixture
def chain(tiny_pipeline, tmp_path):
    return Chain(tiny_pipeline, tmp_path)


def test_edits_of_different_places_are_put_back_as_they_were(chain):
    chain.cut([0, 1]).cut([2, 3], "conceal-units").cut([4, 5], "conceal-units")
    told, out = chain.without(2)
    assert (told["taken_back"], told["kept"], told["made_anew"]) == ("edit-2", ["edit-3"], [])
    assert_same(out, chain.expected(chain.edits[0], chain.edits[2]))
    assert told["model"] == PipelineTarget.load(out).ident.digest == read_header(out)["result"]
    edit, about = load_edit(edit_path(Run(chain.runs[2]), read_header(out)["edit"]))
    assert (about["instead_of"], about["without"]) == ("edit-3", "edit-2")
    assert edit.model == PipelineTarget.load(chain.models[1]).ident.digest


def test_where_a_later_edit_met_the_same_weights_it_stays_in_force(chain):
    chain.cut([0, 1]).cut([1, 2, 3]).cut([3, 4])
    told, out = chain.without(2)
    assert told["made_anew"] == ["edit-3"]
    found, base = weights(out), weights(chain.models[0])
    (path,) = chain.edits[0].changes
    assert not found[path][[0, 1, 3, 4]].any()
    assert torch.equal(found[path][2], base[path][2])
    assert found[path][2].any()
    found[path] = base[path]
    assert all(torch.equal(found[k], base[k]) for k in base)


def test_a_later_edit_is_asked_again_on_the_weights_without_the_one_taken_back(chain):
    chain.cut([0, 1]).cut([2, 3], "scale-units", factor=0.25).cut([1, 3, 5], "scale-units", factor=0.5)
    told, out = chain.without(2)
    assert told["made_anew"] == ["edit-3"]
    base = weights(chain.models[0])
    (path,) = chain.edits[0].changes
    base[path][[0, 1]] = 0.0
    base[path][[3, 5]] *= 0.5
    assert_same(out, base)


def test_what_follows_an_edit_that_was_made_anew_fits_it(chain):
    chain.cut([0, 1]).cut([1, 2], "scale-units", factor=0.5).cut([2, 3], "scale-units", factor=0.5)
    told, out = chain.without(1)
    assert told["made_anew"] == ["edit-2"]
    assert told["kept"] == ["edit-3"]
    base = weights(chain.models[0])
    (path,) = chain.edits[0].changes
    base[path][1] *= 0.5
    base[path][2] *= 0.25
    base[path][3] *= 0.5
    assert_same(out, base)


def test_the_newest_is_taken_back_to_the_model_before(chain):
    chain.cut([0]).cut([1])
    told, out = chain.without(2)
    assert_same(out, weights(chain.models[1]))
    assert read_header(out) == read_header(chain.models[1])
    assert told["kept"] == told["made_anew"] == []


def test_the_only_one_is_taken_back_to_a_model_that_names_no_edit(chain):
    chain.cut([0, 5])
    _, out = chain.without(1)
    assert_same(out, weights(chain.models[0]))
    assert not (out / HEADER).exists()


def test_one_after_another(chain):
    chain.cut([0, 1]).cut([1, 2]).cut([2, 3])
    _, once = chain.without(2, "once")
    _, twice = chain.without(1, "twice", model=once)
    base = weights(chain.models[0])
    (path,) = chain.edits[0].changes
    base[path][[2, 3]] = 0.0
    assert_same(twice, base)


def test_asked_again_it_is_there(chain):
    chain.cut([0]).cut([1])
    first, out = chain.without(1)
    before = (out / HEADER).stat().st_mtime_ns
    again, _ = chain.without(1)
    assert again == first
    assert (out / HEADER).stat().st_mtime_ns == before


class TestRefusals:
    @pytest.fixture
    def two(self, chain):
        return chain.cut([0]).cut([1])

    def test_a_run_that_is_missing(self, two):
        two.runs.pop()
        with pytest.raises(InputError, match=r"keeps edit-2.*give all audits"):
            two.without(1)

    def test_an_edit_that_did_not_lead_to_the_model(self, two):
        with pytest.raises(InputError, match="edit-2 is not among the edits edit-1 that lead to"):
            two.without(2, model=two.models[1])

    def test_a_model_that_was_fine_tuned_since(self, two):
        header = json.loads((two.models[2] / HEADER).read_text())
        (two.models[2] / HEADER).write_text(json.dumps(header | {"kind": FINETUNED, "edit": "finetune-1"}))
        with pytest.raises(InputError, match="was fine-tuned, which changes weights everywhere"):
            two.without(1)

    def test_a_fine_tuning_in_between(self, two):
        shutil.rmtree(two.runs[0] / "edits")
        with pytest.raises(InputError, match="the model before them was fine-tuned or is the first one"):
            two.without(1)

    def test_a_fine_tuning_as_the_edit(self, two):
        header = json.loads((two.models[1] / HEADER).read_text())
        (two.models[1] / HEADER).write_text(json.dumps(header | {"kind": FINETUNED}))
        with pytest.raises(InputError, match="says a fine-tuning"):
            two.without(1)

    def test_weights_that_changed_since(self, two):
        file = two.models[2] / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({k: v + 1e-3 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match="was changed after it was pruned"):
            two.without(1)

    def test_a_place_that_is_taken(self, two, tmp_path):
        (tmp_path / "rolled").mkdir()
        (tmp_path / "rolled" / "note.txt").write_text("mine")
        with pytest.raises(StoreError, match="is not empty"):
            two.without(1)

    def test_a_model_without_an_edit(self, two, tiny_pipeline):
        with pytest.raises(InputError, match="give a folder that amnestic prune wrote"):
            two.without(1, model=tiny_pipeline)
