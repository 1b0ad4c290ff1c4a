"""What all tests share: an offline, screenless process, one tiny model on disk and an audit of it."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amnestic.audit.request import AuditRequest
from amnestic.core.records import Sampling

TINY_CHANNELS = (16, 16, 32, 32)
TINY_WIDTH = 32
HOSTILE = "<script>alert(1)</script> a red cat"


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained Stable Diffusion pipeline for 64-pixel images; read it, never write to it."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from amnestic.core.seeds import seeded_init
    from amnestic.testbed.autoencoder import new_autoencoder
    from amnestic.testbed.diffusion import new_scheduler, new_unet
    from amnestic.testbed.text_encoder import new_text_encoder, new_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tokenizer = new_tokenizer(["a red cat on a blue mat", "two dogs under a green tree"], vocabulary=300)
    with seeded_init(0, "tiny pipeline"):
        pipeline = StableDiffusionPipeline(
            vae=new_autoencoder(width=8),
            text_encoder=new_text_encoder(tokenizer, width=TINY_WIDTH, layers=2),
            tokenizer=tokenizer,
            unet=new_unet(TINY_CHANNELS, text_width=TINY_WIDTH),
            scheduler=DDIMScheduler.from_config(new_scheduler().config, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def tiny_copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "copy"))


@pytest.fixture
def listed(tmp_path):
    """A reference folder with four originals, a prompt list that names them, and controls."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "references"
    folder.mkdir()
    rows = []
    for index in range(4):
        image = np.kron(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
        Image.fromarray(image).save(folder / f"w{index}.png")
        text = HOSTILE if index == 0 else f"work {index}"
        rows.append({"id": f"w{index}", "prompt": text, "image": f"w{index}.png", "label": "VM", "rung": index % 2})
    rows += [{"id": f"b{i}", "prompt": f"a base scene {i}", "label": "base"} for i in range(2)]
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "image", "label", "rung"])
        writer.writeheader()
        writer.writerows(rows)
    return path, folder


@pytest.fixture
def request_of(listed, tiny_pipeline, tmp_path, tiny_sscd):
    """An audit of the tiny model that takes a second."""
    prompts, references = listed
    return AuditRequest(
        model=str(tiny_pipeline), prompts=prompts, references=references, out=tmp_path / "run", n_seeds=2,
        sampling=Sampling(num_inference_steps=2, guidance_scale=2.0), device="cpu", batch_size=4,
        descriptor="sscd-mini", sscd_weights=tiny_sscd, threshold=0.99,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_sscd(tmp_path_factory):
    """An untrained sscd-mini on disk."""
    from amnestic.core.seeds import seeded_init
    from amnestic.model.sscd import small_network
    from amnestic.testbed.sscd_mini import export_sscd

    with seeded_init(0, "tiny sscd"):
        network = small_network(base_width=8)
    return export_sscd(network.eval(), tmp_path_factory.mktemp("sscd"), 0.99999)
