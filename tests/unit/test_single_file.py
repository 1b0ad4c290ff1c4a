"""Checkpoints in one file: the same model as the folder, and what is refused before a weight is read."""

import pickle
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from amnestic.core.errors import InputError, UnsupportedModel
from amnestic.core.records import Sampling, Unit
from amnestic.core.seeds import seeded_init
from amnestic.model.target import PipelineTarget

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet(name, layers, attends_up):
    """Name of a U-Net parameter in the layout of the first release."""
    for new, old in UNET.items():
        if name.startswith(new + "."):
            return name.replace(new, old, 1)
    side, block, kind, number, rest = re.fullmatch(
        r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    ).groups()
    block, number = int(block or 0), int(number)
    if kind == "resnets":
        part, _, end = rest.rpartition(".")
        rest = f"{RESNET[part]}.{end}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{rest}"
    if side == "down":
        place = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else number)
        inside = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        return f"input_blocks.{place}.{inside}.{rest.removeprefix('conv.')}"
    place = block * (layers + 1) + (layers if kind == "upsamplers" else number)
    inside = {"resnets": "0", "attentions": "1", "upsamplers": "2" if attends_up[block] else "1"}[kind]
    return f"output_blocks.{place}.{inside}.{rest}"


def original_vae(name, blocks):
    """Name of an autoencoder parameter in the layout of the first release."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    if "mid_block.attentions.0." in name:
        for new, old in ATTENTION.items():
            name = name.replace(f".0.{new}.", f".0.{old}.")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
    return name


def original_state(pipeline):
    unet, vae = pipeline.unet, pipeline.vae
    attends_up = ["CrossAttn" in kind for kind in unet.config.up_block_types]
    state = {
        "model.diffusion_model." + original_unet(k, unet.config.layers_per_block, attends_up): v
        for k, v in unet.state_dict().items()
    }
    for key, value in vae.state_dict().items():
        name = original_vae(key, len(vae.config.down_block_types))
        linear = "attn_1" in name and name.endswith("weight") and value.ndim == 2
        state["first_stage_model." + name] = value[:, :, None, None] if linear else value
    state |= {
        f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
        for k, v in pipeline.text_encoder.state_dict().items()
    }
    assert len(state) == sum(len(part.state_dict()) for part in (unet, vae, pipeline.text_encoder))
    return {k: v.contiguous() for k, v in state.items()}


@pytest.fixture(scope="module")
def folder(tiny_pipeline, tmp_path_factory):
    """The tiny model with the autoencoder of Stable Diffusion, which alone has an original layout."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    channels = pipeline.unet.config.in_channels
    with seeded_init(0, "tiny autoencoder"):
        pipeline.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16), norm_num_groups=8, latent_channels=channels, layers_per_block=1,
            sample_size=64,
        )  # fmt: skip
    place = tmp_path_factory.mktemp("kl") / "pipeline"
    pipeline.save_pretrained(place, safe_serialization=True)
    return place


@pytest.fixture(scope="module")
def state(folder):
    return original_state(StableDiffusionPipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def settings(folder, tmp_path_factory):
    """The folder without any weights: only settings and tokenizer."""
    place = tmp_path_factory.mktemp("settings") / "config"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    return place


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    file = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(state, file)
    return file


def test_one_file_is_the_same_model_as_the_folder(checkpoint, settings, folder):
    single = PipelineTarget.load(checkpoint, config=settings)
    whole = PipelineTarget.load(folder)
    assert single.ident.digest == whole.ident.digest
    assert (single.ident.name, single.ident.config) == (str(checkpoint), str(settings))
    how = Sampling(num_inference_steps=2, guidance_scale=2.0)
    units, prompts = [Unit("a", 0), Unit("a", 1)], ["a red cat", "two dogs"]
    ours, theirs = (t.decode(t.sample(units, prompts, how)) for t in (single, whole))
    assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))


def test_weights_beside_the_settings_are_not_looked_at(checkpoint, folder, state, tmp_path):
    changed = {k: v * 2 if k.startswith("cond_stage_model") and v.is_floating_point() else v for k, v in state.items()}
    save_file(changed, tmp_path / "other.safetensors")
    one, other = (PipelineTarget.load(f, config=folder) for f in (checkpoint, tmp_path / "other.safetensors"))
    assert one.ident.digest != other.ident.digest


def test_without_settings_and_without_a_hub_it_says_what_to_give(checkpoint):
    with pytest.raises(InputError, match="--model-config"):
        PipelineTarget.load(checkpoint)


def test_settings_are_checked_and_only_for_one_file(checkpoint, folder, tmp_path):
    with pytest.raises(InputError, match=r"model_index\.json"):
        PipelineTarget.load(checkpoint, config=tmp_path)
    with pytest.raises(InputError, match="--model-config is for"):
        PipelineTarget.load(folder, config=folder)


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_a_part_that_is_missing_is_not_taken_from_elsewhere(state, folder, tmp_path, part):
    save_file({k: v for k, v in state.items() if not k.startswith(part)}, tmp_path / "part.safetensors")
    with pytest.raises(UnsupportedModel, match="expected a whole checkpoint"):
        PipelineTarget.load(tmp_path / "part.safetensors", config=folder)


def test_a_lost_weight_is_an_error(state, folder, tmp_path):
    lost = next(k for k in state if k.startswith("model.diffusion_model.middle_block.1"))
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / "lost.safetensors")
    with pytest.raises(InputError, match="could not be loaded"):
        PipelineTarget.load(tmp_path / "lost.safetensors", config=folder)


def test_an_inpainting_checkpoint_is_refused(state, folder, tmp_path):
    key = "model.diffusion_model.input_blocks.0.0.weight"
    shape = (state[key].shape[0], state[key].shape[1] * 2 + 1, 3, 3)
    save_file(state | {key: torch.zeros(shape)}, tmp_path / "inpaint.safetensors")
    with pytest.raises(UnsupportedModel, match="inpainting"):
        PipelineTarget.load(tmp_path / "inpaint.safetensors", config=folder)


def test_a_pickled_checkpoint_needs_to_be_asked_for(state, folder, settings, tmp_path):
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, file)
    with pytest.raises(UnsupportedModel, match="--allow-pickle"):
        PipelineTarget.load(file, config=settings)
    loaded = PipelineTarget.load(file, config=settings, allow_pickle=True)
    assert loaded.ident.digest == PipelineTarget.load(folder).ident.digest


def test_a_pickle_under_another_name_is_not_opened(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    file = tmp_path / "renamed.safetensors"
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="not a readable safetensors file"):
        PipelineTarget.load(file, config=folder)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModel, match=r"\.safetensors checkpoint"):
        PipelineTarget.load(tmp_path / "model.gguf", config=folder)
    with pytest.raises(InputError, match="found nothing"):
        PipelineTarget.load(tmp_path / "gone.safetensors", config=folder)
    assert not (tmp_path / "ran").exists()


def test_no_weight_of_the_file_is_lost(checkpoint, settings, state):
    single = PipelineTarget.load(checkpoint, config=settings).pipeline
    assert original_state(single).keys() == load_file(checkpoint).keys()
    assert all(torch.equal(v, state[k]) for k, v in original_state(single).items())
