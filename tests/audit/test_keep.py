"""What is kept of an image changes nothing but what lies on the disk."""

import re
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from amnestic import cli, stages
from amnestic.core.errors import StoreError
from amnestic.core.records import Keep, Unit
from amnestic.core.store import Run
from amnestic.model.target import PipelineTarget
from amnestic.stages import generating
from amnestic.stages.images import images_of

UNITS = [Unit(prompt, seed) for prompt in ("w0", "w1", "w2", "w3", "b0", "b1") for seed in range(2)]


@pytest.fixture
def keeping(request_of, tmp_path):
    """An audit that looks at every pair and keeps what it is told to, done."""

    def done(keep):
        request = replace(request_of, threshold=-1.0, out=tmp_path / keep, keep=keep, show_originals=True)
        stages.audit(request)
        return request

    return done


def files_of(request, suffix):
    return {p.relative_to(request.out).as_posix(): p.read_bytes() for p in request.out.glob(f"images/*/*{suffix}")}


def shown_in(request):
    """The pictures of the report; at 64 pixels they are whole images."""
    return re.findall('data:image/png;base64,[^"]+', (request.out / "report.html").read_text())


def no_drawing(monkeypatch):
    monkeypatch.setattr(generating, "generate", lambda *a: pytest.fail("drew again") if a[2] else iter(()))


def test_latents_give_what_images_give(keeping):
    images, latents, both = (keeping(keep) for keep in Keep)
    assert len(files_of(images, ".png")) == len(files_of(latents, ".safetensors")) == 12
    assert not files_of(images, ".safetensors")
    assert not files_of(latents, ".png")
    assert files_of(both, ".png") == files_of(images, ".png")
    assert files_of(both, ".safetensors") == files_of(latents, ".safetensors")
    opened = images_of(Run.open(latents.out), PipelineTarget.load(latents.model))
    for unit in UNITS:
        assert np.array_equal(opened(unit), np.asarray(Image.open(Run(images.out).image_file(unit)))), unit
    matches = [Run.open(request.out).read_table("matches") for request in (images, latents, both)]
    assert matches[0] == matches[1] == matches[2]
    assert sum(row["ssim"] is not None for row in matches[1]) == 8
    assert len(shown_in(images)) > 8
    assert shown_in(images) == shown_in(latents) == shown_in(both)


@pytest.mark.parametrize("keep", list(Keep))
def test_samples_name_and_hash_what_was_kept(keeping, keep, capsys):
    request = keeping(keep)
    rows = Run.open(request.out).read_table("samples")
    assert {row["image"].rpartition(".")[2] for row in rows} == {"safetensors" if keep == Keep.LATENTS else "png"}
    assert all(sha256((request.out / row["image"]).read_bytes()).hexdigest() == row["sha256"] for row in rows)
    cli.status(request.out)
    assert "images: 12 of 12" in capsys.readouterr().out


def test_latents_are_resumed_bit_for_bit(keeping, monkeypatch):
    request = keeping(Keep.LATENTS)
    whole, run = files_of(request, ".safetensors"), Run.open(request.out)
    run.latent_file(UNITS[3]).unlink()
    assert run.missing(UNITS, Keep.LATENTS) == [UNITS[3]]
    assert run.count() == 11
    stages.audit(request)
    assert files_of(request, ".safetensors") == whole
    no_drawing(monkeypatch)
    stages.audit(replace(request, threshold=0.5))
    assert not files_of(request, ".png")


def test_images_come_from_kept_latents_without_drawing(keeping, monkeypatch):
    images, latents = keeping(Keep.IMAGES), keeping(Keep.LATENTS)
    no_drawing(monkeypatch)
    stages.audit(replace(latents, keep=Keep.IMAGES))
    assert files_of(latents, ".png") == files_of(images, ".png")
    assert Run.open(latents.out).count() == 12


def test_latents_that_were_not_kept_are_drawn(keeping):
    images, latents = keeping(Keep.IMAGES), keeping(Keep.LATENTS)
    stages.audit(replace(images, keep=Keep.BOTH))
    assert files_of(images, ".safetensors") == files_of(latents, ".safetensors")


def test_a_damaged_latent_is_named(keeping):
    request = keeping(Keep.LATENTS)
    file = Run(request.out).latent_file(UNITS[0])
    file.write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"w0/0\.safetensors holds no latent .* delete it"):
        stages.audit(request)
