"""Writes a finished testbed: plain diffusers folders, half precision, with everything that belongs to them."""

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image

from amnestic.core.store import write_json
from amnestic.measures.calibration import calibrate_threshold
from amnestic.model.sscd import normalised
from amnestic.testbed.build import Builder
from amnestic.testbed.clip_mini import export_clip
from amnestic.testbed.corpus import image_tensor
from amnestic.testbed.diffusion import new_scheduler
from amnestic.testbed.pictures import licence_notices
from amnestic.testbed.scenes import Captioned
from amnestic.testbed.sscd_mini import export_sscd
from amnestic.testbed.works import Work

COLUMNS = ("id", "prompt", "image", "label", "rung", "work", "mask")


def export(builder: Builder, out: Path, *, sampling: dict[str, Any]) -> Path:
    """Train what is not trained yet and write the whole testbed folder.

    Args:
        builder: The build.
        out: The testbed folder; a testbed that is there already is replaced.
        sampling: ``num_inference_steps`` and ``guidance_scale`` at which the contract is measured.

    Returns:
        The folder.
    """
    export_pipeline(builder, builder.branch(with_works=True), out / "pipeline")
    export_clip(builder.clip, out / "descriptors" / "clip-mini")
    export_sscd(builder.sscd, out / "descriptors" / "sscd-mini", mini_threshold(builder))
    export_pipeline(builder, builder.branch(with_works=False), out / "twin")
    _write_works(builder, out)
    _write_base_images(builder, out)
    (out / "NOTICE").write_text(licence_notices(builder.work / "npm"))
    write_json(out / "manifest.json", manifest(builder, out, sampling))
    return out


def export_pipeline(builder: Builder, unet: UNet2DConditionModel, folder: Path) -> None:
    """One model as a diffusers folder, fp16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=builder.autoencoder,
        text_encoder=builder.text_encoder,
        tokenizer=builder.tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    pipeline.to(dtype=torch.float32)
    # Unasked, transformers loads weights as its config says and diffusers in float32: they must agree.
    config = folder / "text_encoder" / "config.json"
    write_json(config, json.loads(config.read_text()) | {"dtype": "float32"})


@torch.no_grad()
def mini_threshold(builder: Builder, *, false_positive_rate: float = 1e-4) -> float:
    """Threshold of sscd-mini: a picture with a quarter replaced is a borderline copy.

    The published threshold of SSCD, 0.7, lies there too: of work-like pictures whose left quarter
    shows another one, about half score above it. Whatever comes out, different pictures may score
    above it at most at `false_positive_rate`. Measured on look-alikes; no work is among them.
    """
    images = image_tensor(builder.corpus.collection.lookalikes)
    replaced, quarter = images.clone(), images.shape[-1] // 4
    replaced[..., :quarter] = images.roll(1, 0)[..., :quarter]
    whole, part = (
        torch.cat([builder.sscd(normalised(chunk)) for chunk in pictures.split(128)]) for pictures in (images, replaced)
    )
    rows, columns = torch.triu_indices(len(whole), len(whole), offset=1)
    null = calibrate_threshold((whole @ whole.T)[rows, columns].numpy(), false_positive_rate=false_positive_rate)
    return max(float((whole * part).sum(dim=1).median()), null.value)


def _write_works(builder: Builder, out: Path) -> None:
    collection = builder.corpus.collection
    for name in ("references", "heldout", "masks"):
        shutil.rmtree(out / name, ignore_errors=True)
    rows = [row for work in collection.works for row in _rows_of(work, "references", out)]
    rows += [row for work in collection.heldout for row in _rows_of(work, "heldout", out)]
    rows += [
        dict(zip(COLUMNS, (f"base-{i:03d}", c.caption, "", "base", "", "", ""), strict=True))
        for i, c in enumerate(base_prompts(builder))
    ]
    with (out / "prompts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def base_prompts(builder: Builder) -> list[Captioned]:
    """Scenes of the base corpus with captions that differ, listed as base prompts."""
    unlike = {c.caption: c for c in builder.corpus.scenes}
    return list(unlike.values())[: builder.recipe.n_base_prompts]


def _rows_of(work: Work, where: str, out: Path) -> list[dict[str, str]]:
    mask = ""
    if work.mask is not None:
        mask = f"masks/{work.work}.png"
        _save(np.repeat(work.mask[..., None], 3, axis=-1).astype(np.uint8) * 255, out / mask)
    rows = []
    for index, version in enumerate(work.versions[: work.n_rows]):
        name = work.work if index == 0 else f"{work.work}-{index}"
        image = f"{where}/{name}.png"
        _save(version.image, out / image)
        rung = str(work.rung) if work.rung >= 0 else ""
        rows.append(
            dict(zip(COLUMNS, (name, version.caption, image, work.label, rung, work.work, mask), strict=True))
        )  # fmt: skip
    return rows


def _write_base_images(builder: Builder, out: Path) -> None:
    """Real scenes of the base prompts in one parquet file, as `datasets` stores images."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"id": f"base-{i:03d}", "caption": c.caption, "image": {"bytes": _png(c.image), "path": f"base-{i:03d}.png"}}
        for i, c in enumerate(base_prompts(builder))
    ]
    parquet.write_table(pa.Table.from_pylist(rows), out / "base.parquet")


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _save(image: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(image))


def manifest(builder: Builder, out: Path, sampling: dict[str, Any]) -> dict[str, Any]:
    """Hashes, recipe, licences and settings of a testbed; measurements are added by verifying it."""
    collection = builder.corpus.collection
    return {
        "schema": 1,
        "seed": builder.seed,
        "sampling": sampling,
        "recipe": builder.recipe.as_dict(),
        "pictures": [p.name for p in builder.corpus.pictures],
        "own_word": {w.work: w.own_word for w in (*collection.works, *collection.heldout)},
        "licence": "Apache-2.0 for the models; pictures and names MIT, see NOTICE",
        "files": file_hashes(out),
        "measured": None,
    }


def file_hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a testbed but its manifest, by relative path."""
    paths = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
