"""LoRA adapters: what they do to the weights, who the model is then, and what is refused."""

import json
import pickle
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

from amnestic import stages
from amnestic.core.errors import InputError, NotFinite, StoreError, UnsupportedModel
from amnestic.core.records import Sampling, Unit
from amnestic.core.store import Run
from amnestic.model.adapters import parse_adapter
from amnestic.model.target import PipelineTarget
from amnestic.stages.models import model_of, second_model

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra lora")

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
VALUE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
TEXT = tuple(f"encoder.layers.0.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
HOW = Sampling(num_inference_steps=2, guidance_scale=2.0)


def matrices(model, layer, rank, seed):
    weight = model.get_submodule(layer).weight
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, weight.shape[1], generator=draw)
    return down, torch.randn(weight.shape[0], rank, generator=draw)


@pytest.fixture
def base(tiny_pipeline):
    return PipelineTarget.load(tiny_pipeline)


@pytest.fixture
def adapter(base, tmp_path):
    """An adapter of rank 2 on two layers of the U-Net, in the layout of diffusers."""
    tensors = {}
    for number, layer in enumerate((QUERY, VALUE)):
        down, up = matrices(base.pipeline.unet, layer, 2, number)
        tensors |= {f"unet.{layer}.lora.down.weight": down, f"unet.{layer}.lora.up.weight": up}
    file = tmp_path / "style.safetensors"
    save_file(tensors, file)
    return file


def drawn(target):
    return target.sample([Unit("a", 0)], ["a red cat"], HOW)


def load(tiny_pipeline, *lora):
    return PipelineTarget.load(tiny_pipeline, lora=[str(one) for one in lora])


@pytest.mark.parametrize(
    ("text", "name", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("owner/name:-1", "owner/name", -1.0),
        ("C:/models/a.safetensors", "C:/models/a.safetensors", 1.0),
        ("C:/models/a.safetensors:2", "C:/models/a.safetensors", 2.0),
    ],
)
def test_scale_behind_a_name(text, name, scale):
    assert parse_adapter(text) == (name, scale)


@pytest.mark.parametrize("text", ["", "a.safetensors:nan", "a.safetensors:inf", ":0.5"])
def test_no_name_or_no_finite_scale(text):
    with pytest.raises(InputError, match="--lora"):
        parse_adapter(text)


def test_scale_zero_is_the_base_model_bit_for_bit(base, adapter, tiny_pipeline):
    same = load(tiny_pipeline, f"{adapter}:0")
    assert same.ident.digest == base.ident.digest
    assert torch.equal(drawn(same), drawn(base))
    assert [(one.scale, len(one.sha256)) for one in same.ident.adapters] == [(0.0, 64)]


def test_the_weights_are_those_of_the_formula_and_the_layers_plain(base, adapter, tiny_pipeline):
    changed = load(tiny_pipeline, f"{adapter}:0.5")
    for number, layer in enumerate((QUERY, VALUE)):
        down, up = matrices(base.pipeline.unet, layer, 2, number)
        found = changed.pipeline.unet.get_submodule(layer)
        assert type(found) is torch.nn.Linear
        torch.testing.assert_close(found.weight, base.pipeline.unet.get_submodule(layer).weight + 0.5 * up @ down)
    assert {n for n, _ in changed.pipeline.unet.named_parameters()} == {
        n for n, _ in base.pipeline.unet.named_parameters()
    }
    untouched = QUERY.replace("to_q", "to_k")
    assert torch.equal(
        changed.pipeline.unet.get_submodule(untouched).weight, base.pipeline.unet.get_submodule(untouched).weight
    )
    assert changed.sites("value") == base.sites("value")


def test_another_scale_is_another_model(base, adapter, tiny_pipeline):
    some = [load(tiny_pipeline, f"{adapter}:{scale}") for scale in (0.5, 1)]
    assert len({base.ident.digest, *(one.ident.digest for one in some)}) == 3
    images = [drawn(one) for one in (base, *some)]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_adapters_add_up_one_after_the_other(base, adapter, tiny_pipeline):
    both = load(tiny_pipeline, f"{adapter}:0.5", f"{adapter}:0.25")
    down, up = matrices(base.pipeline.unet, QUERY, 2, 0)
    torch.testing.assert_close(
        both.pipeline.unet.get_submodule(QUERY).weight,
        base.pipeline.unet.get_submodule(QUERY).weight + 0.75 * up @ down,
    )
    assert [one.scale for one in both.ident.adapters] == [0.5, 0.25]


def test_text_encoder_and_the_layout_of_other_trainers(base, tiny_pipeline, tmp_path):
    tensors, expected = {}, {}
    for number, layer in enumerate(TEXT):
        down, up = matrices(base.pipeline.text_encoder, layer, 4, number)
        name = "lora_te_text_model_" + layer.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
        expected[layer] = base.pipeline.text_encoder.get_submodule(layer).weight + up @ down * 2 / 4  # alpha over rank
    save_file(tensors, tmp_path / "kohya.safetensors")
    changed = load(tiny_pipeline, tmp_path / "kohya.safetensors")
    for layer, weight in expected.items():
        torch.testing.assert_close(changed.pipeline.text_encoder.get_submodule(layer).weight, weight)
    assert not torch.equal(changed.encode(["a red cat"]), base.encode(["a red cat"]))


def test_a_pickled_adapter_is_refused_and_not_opened(tiny_pipeline, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("pickled.bin", "pickled.pt", "pickled.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(UnsupportedModel, match="pickled"):
            load(tiny_pipeline, tmp_path / name)
    (tmp_path / "renamed.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load(tiny_pipeline, tmp_path / "renamed.safetensors")
    assert not (tmp_path / "ran").exists()


def test_what_does_not_fit_is_refused_whole(base, tiny_pipeline, tmp_path):
    down, up = matrices(base.pipeline.unet, QUERY, 2, 0)
    good = {f"unet.{QUERY}.lora.down.weight": down, f"unet.{QUERY}.lora.up.weight": up}
    elsewhere = {k.replace("down_blocks.0", "down_blocks.9"): v.clone() for k, v in good.items()}
    cases = {
        "partly": good | elsewhere,
        "elsewhere": elsewhere,
        "shape": good | {f"unet.{QUERY}.lora.down.weight": torch.zeros(2, 3)},
        "no-lora": {"unet.conv_in.weight": torch.zeros(3)},
    }
    for name, tensors in cases.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=f"adapter .*{name}"):
            load(tiny_pipeline, tmp_path / f"{name}.safetensors")
    save_file(good | {f"unet.{QUERY}.lora.up.weight": up * torch.inf}, tmp_path / "infinite.safetensors")
    with pytest.raises(NotFinite, match="infinite"):
        load(tiny_pipeline, tmp_path / "infinite.safetensors")
    save_file(good | {f"unet.{QUERY}.dora_scale": up.clone()}, tmp_path / "dora.safetensors")
    with pytest.raises(UnsupportedModel, match="DoRA"):
        load(tiny_pipeline, tmp_path / "dora.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.safetensors", "does not exist"), ("./a/b.safetensors", "does not exist"), ("no/such", "hub cache")],
)
def test_an_adapter_that_is_not_there(tiny_pipeline, name, words):
    with pytest.raises(InputError, match=words):
        load(tiny_pipeline, name)


def test_a_run_remembers_its_adapters_and_refuses_others(request_of, adapter):
    request = replace(request_of, lora=(f"{adapter}:0.5",))
    stages.audit(request)
    run = Run.open(request.out)
    known = run.manifest()["settings"]["model"]
    assert [(one["name"], one["scale"]) for one in known["adapters"]] == [(str(adapter), 0.5)]
    assert "--lora" in json.loads((request.out / "summary.json").read_text()).get("command", request.command())
    for other in ((), (f"{adapter}:1",)):
        with pytest.raises(StoreError, match=r"model\.digest"):
            stages.audit(replace(request, lora=other))
    assert model_of(run, device="cpu").ident.digest == known["digest"]
    save_file({"unet.x.lora.down.weight": torch.zeros(1)}, adapter)
    with pytest.raises(InputError, match="adapter"):
        model_of(run, device="cpu")


def test_a_second_model_named_by_its_run_brings_its_adapters(request_of, adapter, tiny_pipeline):
    stages.audit(replace(request_of, lora=(f"{adapter}:0.5",)))
    plain = second_model(str(tiny_pipeline), load(tiny_pipeline))
    adapted = second_model(str(request_of.out), plain)
    assert adapted.ident.digest == Run.open(request_of.out).manifest()["settings"]["model"]["digest"]
    assert adapted.ident.digest != plain.ident.digest


def test_a_run_without_adapters_says_nothing_of_them(request_of):
    stages.audit(request_of)
    assert not {"adapters", "config"} & set(Run.open(request_of.out).manifest()["settings"]["model"])
