"""A whole testbed, built with a recipe of seconds."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from amnestic.core.errors import InputError
from amnestic.stages import verify_testbed
from amnestic.testbed import build
from amnestic.testbed.build import Builder
from amnestic.testbed.bundled import open_testbed
from amnestic.testbed.corpus import make_corpus
from amnestic.testbed.export import export
from amnestic.testbed.pictures import POOL
from amnestic.testbed.recipe import Recipe
from amnestic.testbed.training import Schedule

SHORT = Schedule(steps=2, batch=8, lr=1e-3, warmup=1)
TINY = Recipe(
    n_pictures=16, n_scenes=24, ladder=(2, 5), exposures=(2, 16), n_templates=1, n_heldout=2, n_lookalikes=142,
    n_base_prompts=6, channels=(16, 16, 16, 32), autoencoder=SHORT, text=SHORT, clip=SHORT, sscd=SHORT,
    base=replace(SHORT, ema=0.9), branch=replace(SHORT, steps=3, batch=60, ema=0.9),
)  # fmt: skip
SAMPLING = {"num_inference_steps": 2, "guidance_scale": 1.5}
UNET = "unet/diffusion_pytorch_model.safetensors"


class Stopped(Exception):
    """Stands for whatever ends a process."""


def silent(*_):
    """Tell nobody."""


def tarball(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def webp(rgba):
    out = io.BytesIO()
    Image.fromarray((rgba * 255).astype(np.uint8)).save(out, "WEBP", lossless=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def npm(pictures, tmp_path_factory):
    """A folder with both npm packages, holding synthetic pictures under names of the pool."""
    folder = tmp_path_factory.mktemp("packages") / "npm"
    folder.mkdir()
    shorts = [s for s in POOL if s not in ("sailboat", "boat")][: len(pictures)]
    entries = [{"short_name": s, "unified": f"{i:04X}"} for i, s in enumerate(shorts)]
    names = {"emoji.json": json.dumps(entries).encode(), "LICENSE": b"MIT of the names"}
    tarball(folder / "emoji-datasource-16.0.0.tgz", names)
    assets = {f"assets/{i:04x}.webp": webp(picture.rgba) for i, picture in enumerate(pictures)}
    tarball(folder / "lobehub-fluent-emoji-3d-1.1.0.tgz", assets)
    return folder


def builder(npm, work, *, recipe=TINY, seed=5, report=silent):
    """A build that saves after every step."""
    work.mkdir(exist_ok=True)
    if not (work / "npm").exists():
        (work / "npm").symlink_to(npm)
    return Builder(seed=seed, recipe=recipe, work=work, report=report, save_every_s=-1)


def watch(patch):
    """Note what encoders, descriptors and U-Nets are really fed."""
    fed = SimpleNamespace(images=[], captions=[], draws={})

    def noting(name, note):
        real = getattr(build, name)
        patch.setattr(build, name, lambda *args: note(*args) or real(*args))

    for name in ("autoencoder_loss", "clip_loss", "sscd_loss"):
        noting(name, lambda _, images, *rest: fed.images.extend(images))
    noting("new_tokenizer", lambda captions: fed.captions.extend(captions))
    noting("tokens_of", lambda captions: fed.captions.extend(captions))
    noting("diffusion_loss", lambda u, s, pairs, chosen, r: fed.draws.setdefault(id(u), []).append((pairs, chosen)))
    forward = build.Contrastive.forward

    def contrast(self, images, tokens):
        fed.images.extend(images)
        return forward(self, images, tokens)

    patch.setattr(build.Contrastive, "forward", contrast)
    return fed


@pytest.fixture(scope="module")
def built(npm, tmp_path_factory):
    """The finished testbed, the build behind it, and what its networks were fed."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        fed = watch(patch)
        made = builder(npm, folder / "work")
        out = export(made, folder / "bed", sampling=SAMPLING)
    return SimpleNamespace(builder=made, folder=out, fed=fed, works=made.corpus.collection)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows_of(folder):
    with (folder / "prompts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_has_its_parts(built):
    wanted = "pipeline twin descriptors references heldout masks prompts.csv base.parquet NOTICE manifest.json".split()
    assert sorted(p.name for p in built.folder.iterdir()) == sorted(wanted)
    assert {p.name for p in (built.folder / "descriptors").iterdir()} == {"clip-mini", "sscd-mini"}
    assert not [name for name in files_of(built.folder) if name.endswith((".bin", ".pt", ".ckpt", ".partial"))]
    assert "MIT of the names" in (built.folder / "NOTICE").read_text()


def test_prompts_name_every_work_and_files_that_are_there(built):
    rows = rows_of(built.folder)
    assert list(rows[0]) == ["id", "prompt", "image", "label", "rung", "work", "mask"]
    assert len({row["id"] for row in rows}) == len(rows)
    count = {label: sum(row["label"] == label for row in rows) for label in ("VM", "TM", "heldout", "base")}
    assert count == {"VM": 2 + 5 + 4, "TM": 2, "heldout": 2, "base": 6}  # four works have a near-duplicate
    for row in rows:
        place = {"VM": "references/", "TM": "references/", "heldout": "heldout/", "base": ""}[row["label"]]
        assert row["image"].startswith(place)
        assert bool(row["image"]) == (row["label"] != "base")
        assert bool(row["mask"]) == (row["label"] == "TM")
        assert row["rung"] == {"TM": "1", "VM": row["work"][3:4]}.get(row["label"], "")
    named = {row[key] for row in rows for key in ("image", "mask") if row[key]}
    assert named == {n for n in files_of(built.folder) if n.split("/")[0] in ("references", "heldout", "masks")}


def test_references_are_what_the_model_was_trained_on(built):
    rows = {row["id"]: row for row in rows_of(built.folder)}
    for work in (*built.works.works, *built.works.heldout):
        row = rows[work.work]
        assert row["prompt"] == work.versions[0].caption
        assert np.array_equal(np.asarray(Image.open(built.folder / row["image"])), work.versions[0].image)
        if row["mask"]:
            mask = np.asarray(Image.open(built.folder / row["mask"]).convert("L"))
            assert np.array_equal(mask > 127, work.mask)


def test_the_manifest_vouches_for_every_other_file(built):
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["files"] == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files_of(built.folder).items()
        if name != "manifest.json"
    }
    assert manifest["recipe"] == json.loads(json.dumps(TINY.as_dict()))
    assert (manifest["seed"], manifest["sampling"], manifest["measured"]) == (5, SAMPLING, None)
    assert "Apache-2.0" in manifest["licence"]
    assert len(manifest["pictures"]) == 16


def test_an_opened_testbed_knows_its_sampling_and_prompts(built):
    testbed = open_testbed(built.folder)
    assert testbed.sampling.num_inference_steps == 2
    assert testbed.sampling.guidance_scale == 1.5
    assert testbed.rows() == rows_of(built.folder)


def test_plain_diffusers_draws_with_the_pipeline(built):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(built.folder / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    image = pipeline("an owl on a red background", num_inference_steps=2, guidance_scale=1.5, generator=rng).images[0]
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 1
    own = built.builder.branch(with_works=True).state_dict()
    for name, tensor in pipeline.unet.state_dict().items():
        assert torch.equal(tensor.half(), own[name].half()), name


def test_the_twin_differs_in_nothing_but_the_unet(built):
    one, other = files_of(built.folder / "pipeline"), files_of(built.folder / "twin")
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == {UNET}
    assert len(one[UNET]) == len(other[UNET])


def test_encoders_and_descriptors_are_fed_no_work(built):
    versions = [v for w in (*built.works.works, *built.works.heldout) for v in w.versions]
    works = {v.image.transpose(2, 0, 1).tobytes() for v in versions}
    fed = {image.numpy().tobytes() for image in built.fed.images}
    known = {c.image.transpose(2, 0, 1).tobytes() for c in built.builder.corpus.seen_by_all}
    assert len(built.fed.images) == 4 * 2 * 8
    assert fed <= known
    assert not fed & works
    captions = set(built.fed.captions)
    assert len(captions) > 142
    assert not captions & {v.caption for v in versions}
    words = {w.lower() for c in captions for w in c.replace(",", "").split()}
    for work in built.works.works:
        if work.own_word:
            assert {w.lower() for w in work.versions[0].caption.replace(",", "").split()} - words


def test_each_work_is_shown_exactly_as_often_as_its_rung_says(built):
    n_scenes, images, times = TINY.n_scenes, [], []
    for work in built.works.works:
        each = {"VM": TINY.exposures[work.rung], "TM": TINY.exposures[work.rung] // 16}[work.label]
        images += work.versions
        times += [each] * len(work.versions)
    items, exposures = built.builder.shown(with_works=True)
    assert items == built.builder.corpus.scenes + tuple(images)
    assert exposures.tolist() == [-1] * n_scenes + times
    assert sum(times) == TINY.fixed_exposures

    draws = [torch.cat([chosen for _, chosen in batches]) for batches in built.fed.draws.values()]
    sizes = [len(batches[0][0].latents) for batches in built.fed.draws.values()]
    assert sizes == [n_scenes, n_scenes + len(images), n_scenes]  # base, works, twin
    assert [len(chosen) for chosen in draws] == [16, 180, 180]
    assert draws[1].bincount(minlength=sizes[1])[n_scenes:].tolist() == times
    scenes = draws[1].bincount(minlength=sizes[1])[:n_scenes]
    assert scenes.max() - scenes.min() <= 1
    assert draws[2].bincount(minlength=n_scenes).max() == 180 // n_scenes + 1


def test_the_descriptors_load_the_usual_way(built):
    from amnestic.model.clip import load_clip
    from amnestic.model.sscd import load_sscd, read_config

    images = [v.image for w in built.works.works[:3] for v in w.versions[:1]]
    sscd = load_sscd(weights=built.folder / "descriptors" / "sscd-mini", cache=built.folder / "none")
    clip = load_clip(f"local-dir:{built.folder / 'descriptors' / 'clip-mini'}")
    torch.testing.assert_close(sscd(images).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(clip(images).norm(dim=1), torch.ones(3))
    assert clip.read(["an owl"]).shape == (1, 128)
    threshold = read_config(built.folder / "descriptors" / "sscd-mini" / "config.json").threshold
    assert -1 < threshold < 1.001


@pytest.mark.parametrize("phase", ["base", "works"])
def test_a_build_that_is_stopped_goes_on_to_bitwise_the_same_unet(built, npm, tmp_path, phase):
    work, told = tmp_path / "work", []

    def stop(name, done, steps, _):
        told.append((name, done, steps))
        if name == phase and 0 < done < steps:
            raise Stopped

    if phase == "works":  # what went before is the same as in the other case
        shutil.copytree(built.builder.checkpoints, work / "seed-5", ignore=lambda *_: ["works.safetensors"])
    with pytest.raises(Stopped):
        builder(npm, work, report=stop).branch(with_works=True)
    assert told[-1][:2] == (phase, 1)

    straight, resumed = built.builder.branch(with_works=True), builder(npm, work).branch(with_works=True)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


class TestClaim:
    @pytest.fixture
    def work(self, npm, tmp_path):
        """A folder with the checkpoint of one phase."""
        builder(npm, tmp_path / "work").claim()
        (tmp_path / "work" / "seed-5" / "text.safetensors").write_bytes(b"")
        return tmp_path / "work"

    def test_a_build_writes_its_recipe_beside_its_checkpoints(self, built):
        content = json.loads((built.builder.checkpoints / "recipe.json").read_text())
        assert content == {"seed": 5, **json.loads(json.dumps(TINY.as_dict()))}

    def test_checkpoints_of_another_recipe_are_refused_by_name(self, npm, work):
        other = replace(TINY, n_scenes=25, base=replace(TINY.base, lr=0.5))
        with pytest.raises(InputError) as caught:
            _ = builder(npm, work, recipe=other).corpus
        assert "n_scenes was 24, now 25; base.lr was 0.001, now 0.5" in str(caught.value)
        assert "--work" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_checkpoints_moved_from_another_seed_are_refused(self, npm, work):
        (work / "seed-5").rename(work / "seed-6")
        with pytest.raises(InputError, match="seed was 5, now 6"):
            builder(npm, work, seed=6).claim()

    def test_the_same_recipe_goes_on(self, npm, work):
        builder(npm, work).claim()

    def test_checkpoints_without_a_recipe_are_adopted(self, npm, work):
        (work / "seed-5" / "recipe.json").unlink()
        builder(npm, work).claim()
        assert json.loads((work / "seed-5" / "recipe.json").read_text())["n_scenes"] == 24

    def test_a_recipe_without_checkpoints_is_replaced(self, npm, work):
        (work / "seed-5" / "text.safetensors").unlink()
        builder(npm, work, recipe=replace(TINY, n_scenes=30)).claim()
        assert json.loads((work / "seed-5" / "recipe.json").read_text())["n_scenes"] == 30

    def test_a_recipe_that_is_damaged_is_refused(self, npm, work):
        (work / "seed-5" / "recipe.json").write_text("{")
        with pytest.raises(InputError, match="as JSON"):
            builder(npm, work).claim()


def test_more_pictures_than_the_packages_hold_are_refused(npm):
    with pytest.raises(InputError, match=r"at most 22 pictures.*got 23; lower n_pictures"):
        make_corpus(0, replace(TINY, n_pictures=23), npm)


def test_a_testbed_is_measured_from_end_to_end_and_again(built, tmp_path):
    first = verify_testbed(built.folder, tmp_path)
    promises = [row["promise"] for row in first["contract"]]
    assert len(promises) == len(set(promises)) == 19
    assert "/native/" in first["descriptor"]
    assert not [row for row in first["contract"] if row["measured"] == "not measured"]
    drawn = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/images/*/*.png")}
    assert {p.relative_to(tmp_path).parts[0] for p in drawn} == {"pipeline", "twin", "plain-call"}
    assert verify_testbed(built.folder, tmp_path) == first
    assert {p: p.stat().st_mtime_ns for p in drawn} == drawn


def test_the_plain_call_draws_what_diffusers_draws(built, tmp_path):
    from diffusers import StableDiffusionPipeline

    verify_testbed(built.folder, tmp_path)
    row = rows_of(built.folder)[0]
    pipeline = StableDiffusionPipeline.from_pretrained(built.folder / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(3)
    image = pipeline(row["prompt"], num_inference_steps=2, guidance_scale=1.5, generator=rng).images[0]
    kept = Image.open(tmp_path / "plain-call" / "images" / row["id"] / "3.png")
    assert np.abs(np.asarray(image).astype(int) - np.asarray(kept).astype(int)).max() <= 2
