import io
import json
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from amnestic.core.errors import InputError
from amnestic.testbed.pictures import NAME_PACKAGE, PICTURE_PACKAGE, POOL, fetch_tarball, licence_notices, load_pictures

NAMES_FILE, PICTURES_FILE = "emoji-datasource-16.0.0.tgz", "lobehub-fluent-emoji-3d-1.1.0.tgz"


def tarball(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def webp(size, box, colour=(200, 30, 40, 255)):
    image = Image.new("RGBA", size)
    image.paste(colour, box)
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True)
    return out.getvalue()


@pytest.fixture
def cache(tmp_path):
    """Tarballs with four pictures: two of the pool, one renamed, one that is not in the pool."""
    shorts = {"cactus": "1F335", "fox_face": "1F98A", "boat": "26F5", "smile": "1F604", "owl": "1F989"}
    entries = [{"short_name": s, "unified": u} for s, u in shorts.items()]
    tarball(tmp_path / NAMES_FILE, {"emoji.json": json.dumps(entries).encode(), "LICENSE": b"MIT of the names"})
    assets = {f"assets/{shorts[s].lower()}.webp": webp((64, 64), (10, 20, 30, 60)) for s in ("cactus", "fox_face")}
    assets |= {f"assets/{shorts[s].lower()}.webp": webp((64, 64), (0, 0, 64, 64)) for s in ("boat", "smile")}
    tarball(tmp_path / PICTURES_FILE, assets)
    return tmp_path


@pytest.fixture
def no_npm(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_without_npm_one_sentence_says_what_to_do(tmp_path, no_npm):
    with pytest.raises(InputError) as caught:
        load_pictures(tmp_path / "new")
    message = str(caught.value)
    assert "\n" not in message
    assert "npm was not found" in message
    assert "install Node.js" in message
    assert str(tmp_path / "new" / NAMES_FILE) in message


def test_what_npm_says_last_is_passed_on(tmp_path, monkeypatch):
    def failing(command, **kwargs):
        assert command[1:3] == ["pack", PICTURE_PACKAGE]
        assert "--ignore-scripts" in command
        return subprocess.CompletedProcess(command, 1, "", "npm error\nnpm error network unreachable\n")

    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(InputError, match=r"could not fetch .*network unreachable.*or put the tarball"):
        fetch_tarball(PICTURE_PACKAGE, tmp_path)


def test_an_npm_that_writes_nothing_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    with pytest.raises(InputError, match="no message"):
        fetch_tarball(NAME_PACKAGE, tmp_path)


def test_a_tarball_that_is_there_is_not_fetched_again(cache, no_npm):
    assert fetch_tarball(NAME_PACKAGE, cache) == cache / NAMES_FILE
    assert fetch_tarball(PICTURE_PACKAGE, cache) == cache / PICTURES_FILE


def test_pictures_of_the_pool_come_in_its_order_with_plain_names(cache, no_npm):
    assert [p.name for p in load_pictures(cache)] == ["cactus", "fox", "sailboat"]


def test_pictures_are_trimmed_centred_and_keep_their_shape(cache, no_npm):
    cactus, _, boat = load_pictures(cache, side=40)
    for picture in (cactus, boat):
        assert picture.rgba.shape == (40, 40, 4)
        assert picture.rgba.dtype == np.float32
        assert picture.rgba.min() >= 0
        assert picture.rgba.max() <= 1
    shown = cactus.rgba[..., 3] > 0.5  # 20 wide and 40 high before: half as wide as high
    assert shown.all(axis=1).sum() == 0
    assert shown.any(axis=1).all()
    assert shown.any(axis=0).nonzero()[0].tolist() == list(range(10, 30))
    np.testing.assert_allclose(cactus.rgba[20, 20], np.array([200, 30, 40, 255]) / 255, atol=0.01)
    assert (boat.rgba[..., 3] == 1).all()


def test_the_pool_names_every_picture_once():
    assert len(set(POOL)) == len(POOL) > 60


def test_licences_of_both_packages_travel_along(cache, no_npm):
    text = licence_notices(cache)
    assert "MIT of the names" in text
    assert "Microsoft" in text
    assert PICTURE_PACKAGE in text
