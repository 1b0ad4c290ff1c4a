"""What all tests share: an offline, screenless process and one tiny model on disk."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import shutil
from pathlib import Path

import pytest

TINY_CHANNELS = (16, 16, 32, 32)
TINY_WIDTH = 32


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
