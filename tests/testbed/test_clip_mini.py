import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from amnestic.core.seeds import generator, seeded_init
from amnestic.model.clip import load_clip
from amnestic.testbed.autoencoder import to_float
from amnestic.testbed.clip_mini import CONFIG, CONTEXT, clip_loss, export_clip, new_clip, tokens_of

CAPTIONS = ["an owl on a red background", "a bell and a drum", "Velquorin by the Sea by Elena Marsh, linocut"]


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, 64, 64), generator=generator(0, "images")).byte()


@pytest.fixture(scope="module")
def model():
    with seeded_init(0, "clip"):
        return new_clip().eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip-mini"
    export_clip(model, folder)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("AMNESTIC_OFFLINE", "1")


def test_open_clip_loads_what_was_exported_and_gives_the_same_vectors(model, folder, images):
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    loaded.eval()
    fed = torch.stack([preprocess(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images])
    torch.testing.assert_close(fed, to_float(images), atol=1e-6, rtol=0)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    assert torch.equal(tokens, tokens_of(CAPTIONS))
    with torch.no_grad():
        seen = [m.encode_image(fed, normalize=True) for m in (model, loaded)]
        read = [m.encode_text(tokens, normalize=True) for m in (model, loaded)]
    assert next(loaded.parameters()).dtype == torch.float32
    torch.testing.assert_close(seen[1], seen[0], atol=5e-3, rtol=0)
    torch.testing.assert_close(read[1], read[0], atol=5e-3, rtol=0)


def test_the_encoder_of_an_audit_reads_it_too(model, folder, images):
    encoder = load_clip(f"local-dir:{folder}")
    with torch.no_grad():
        seen = model.encode_image(to_float(images), normalize=True)
    pictures = [np.ascontiguousarray(i.permute(1, 2, 0).numpy()) for i in images]
    torch.testing.assert_close(encoder(pictures), seen, atol=5e-3, rtol=0)
    assert encoder.read(CAPTIONS).shape == (3, CONFIG["model_cfg"]["embed_dim"])


def test_the_folder_holds_half_precision_and_a_config(folder):
    assert sorted(f.name for f in folder.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert json.loads((folder / "open_clip_config.json").read_text()) == CONFIG
    tensors = load_file(folder / "open_clip_model.safetensors")
    assert {t.dtype for t in tensors.values()} <= {torch.float16, torch.int64}


def test_tokens_are_padded_and_cut():
    tokens = tokens_of([*CAPTIONS, "owl " * 100])
    assert tokens.shape == (4, CONTEXT)
    assert (tokens[:, 0] == 49406).all()
    assert (tokens == 49407).any(dim=1).all()
    assert tokens[0, -1] == 0


def test_the_loss_is_the_symmetric_cross_entropy_of_cosines(model, images):
    tokens = tokens_of(CAPTIONS)
    with torch.no_grad():
        logits = model.logit_scale.exp() * (
            model.encode_image(to_float(images), normalize=True) @ model.encode_text(tokens, normalize=True).T
        )
        right = torch.arange(3)
        wanted = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
        torch.testing.assert_close(clip_loss(model, images, tokens), wanted)


def test_the_loss_reaches_both_towers(model, images):
    clip_loss(model, images, tokens_of(CAPTIONS)).backward()
    for name in ("visual.conv1.weight", "visual.attnpool.positional_embedding", "token_embedding.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    model.zero_grad()
