import json

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.seeds import seeded_init
from amnestic.model.clip import load_clip, weights_digest

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def model():
    with seeded_init(0, "clip"):
        return open_clip.CLIP(**json.loads(json.dumps(MODEL))).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("clips") / "tiny-clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("AMNESTIC_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def encoder(folder):
    return load_clip(f"local-dir:{folder}", batch=2)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_no_size_is_refused(encoder):
    assert encoder.refuses(1, 300) == encoder.refuses(5000, 5000) == ""


def test_pictures_go_through_the_models_own_preprocessing(encoder, model):
    image = picture(40, 60)
    small = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)).copy()
    x = (torch.from_numpy(small).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.no_grad():
        wanted = model.encode_image(x, normalize=True)
    torch.testing.assert_close(encoder([image]), wanted, atol=1e-5, rtol=0)


def test_texts_go_through_the_models_own_tokenizer(encoder, model):
    texts = ["a red circle", "two blue squares"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    with torch.no_grad():
        wanted = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.read(texts), wanted, atol=1e-5, rtol=0)


def test_rows_are_unit_and_do_not_depend_on_batches(encoder):
    images = [picture(h, w, h) for h, w in ((32, 32), (64, 20), (33, 33))]
    texts = ["a", "b " * 100, "", "c"]
    rows, lines = encoder(images), encoder.read(texts)
    assert rows.shape == (3, 24)
    assert lines.shape == (4, 24)
    torch.testing.assert_close(torch.cat([rows, lines]).norm(dim=1), torch.ones(7))
    torch.testing.assert_close(torch.cat([encoder([i]) for i in images]), rows, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([encoder.read([t]) for t in texts]), lines, atol=1e-5, rtol=0)
    assert not rows.requires_grad


def test_nothing_gives_no_rows(encoder):
    assert encoder([]).shape == encoder.read([]).shape == (0, 24)


def test_identity_names_no_folder_of_this_machine(encoder, folder, model):
    assert encoder.descriptor.name == "local-dir:tiny-clip"
    assert str(folder) not in encoder.descriptor.id
    assert encoder.descriptor.digest == weights_digest(model)


def test_a_changed_weight_changes_the_digest(model):
    before = weights_digest(model)
    with torch.no_grad():
        model.logit_scale += 1
        changed = weights_digest(model)
        model.logit_scale -= 1
    assert changed != before


def test_other_pictures_are_refused(encoder):
    with pytest.raises(InputError, match="expected picture 0"):
        encoder([np.zeros((8, 8), np.uint8)])


def test_nan_weights_are_noticed(folder, tmp_path, model):
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["text_projection"][0, 0] = float("nan")
    save_file(state, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(NotFinite, match="damaged"):
        load_clip(f"local-dir:{tmp_path}").read(["a"])


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-3", None, "did you mean ViT-B-32"),
        ("ViT-B-32", None, "would be random"),
        ("ViT-B-32", "opnai", "did you mean openai"),
        ("ViT-B-32", "/nowhere/weights.pt", "there is no such file"),
        ("ViT-B-32", "openai", "set HF_HUB_OFFLINE=1"),
        ("hf-hub:owner/name", None, "network is switched off"),
        ("hf-hub:owner/name", "openai", "brings its own weights"),
        ("local-dir:/nowhere", None, "found none"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(name, pretrained, message):
    with pytest.raises(InputError, match=message):
        load_clip(name, pretrained)


def test_hub_is_asked_for_its_cache_only_when_it_knows_it_is_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="download it first"):
        load_clip("hf-hub:owner/name")


def test_folder_without_weights_is_refused(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(InputError, match="expected weights beside"):
        load_clip(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    "content", ["", "{}", '{"model_cfg": {}}', '{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}']
)
def test_broken_configs_are_refused(folder, tmp_path, content):
    (tmp_path / "open_clip_config.json").write_text(content)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="open_clip cannot load"):
        load_clip(f"local-dir:{tmp_path}")


def test_quick_gelu_follows_the_weights(monkeypatch):
    seen = {}

    def fake(name, pretrained, **options):
        seen.update(options)
        raise RuntimeError("stop here")

    monkeypatch.delenv("AMNESTIC_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(open_clip, "create_model_and_transforms", fake)
    for pretrained, wanted in (("openai", True), ("laion2b_s34b_b79k", False)):
        with pytest.raises(InputError, match="stop here"):
            load_clip("ViT-B-32", pretrained)
        assert seen["force_quick_gelu"] is wanted
