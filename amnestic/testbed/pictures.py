"""The openly licensed pictures from which every scene and work is composed.

Pictures: npm package `@lobehub/fluent-emoji-3d` (Microsoft Fluent Emoji, MIT). Names: npm package
`emoji-datasource` (MIT). Both are fetched as tarballs through npm's own client and read in place;
nothing inside them is executed.
"""

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amnestic.core.errors import InputError

PICTURE_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
NAME_PACKAGE = "emoji-datasource@16.0.0"

# Single, compact, mutually distinct objects: what a 64-pixel scene can still show.
POOL = (
    "cactus tulip sunflower mushroom rabbit2 crocodile whale2 snail elephant octopus bug bee "
    "tropical_fish turtle penguin tiger pig frog panda_face crab owl fox_face butterfly "
    "hedgehog parrot flamingo watermelon lemon banana pineapple strawberry cherries hamburger "
    "doughnut carrot broccoli cupcake avocado teapot corn eggplant guitar trumpet violin crown "
    "bomb gem bulb key bell candle telescope magnet drum_with_drumsticks hourglass anchor "
    "rocket helicopter tractor bus sailboat umbrella snowman soccer basketball dart balloon "
    "gift trophy teddy_bear yarn kite camera scissors hammer book mailbox fire moon volcano"
).split()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture with its plain English name.

    Attributes:
        name: Name as captions use it, lower case ("hot air balloon").
        rgba: Square picture, float32 in [0, 1], shape ``(side, side, 4)``, straight alpha.
    """

    name: str
    rgba: NDArray[np.float32]


def fetch_tarball(package: str, into: Path) -> Path:
    """Download one npm package's tarball with npm's client, once.

    Args:
        package: Name with version, such as ``emoji-datasource@16.0.0``.
        into: Folder that keeps the tarball between builds.

    Returns:
        Path of the tarball.

    Raises:
        InputError: If npm is missing or cannot reach its registry.
    """
    into.mkdir(parents=True, exist_ok=True)
    name, version = package.rsplit("@", 1)
    tarball = into / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if tarball.exists():
        return tarball
    npm = shutil.which("npm")
    remedy = f"install Node.js with npm, or put the tarball of {package} at {tarball}"
    if npm is None:
        raise InputError(f"building a testbed needs the npm package {package}; npm was not found; {remedy}")
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        [npm, "pack", package, "--silent", "--ignore-scripts", "--pack-destination", str(into)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not tarball.exists():
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"npm could not fetch {package} ({said}); {remedy}")
    return tarball


def _plain_name(entry: dict[str, str]) -> str:
    """The picture's short name as words: `tropical_fish` becomes "tropical fish"."""
    plain = {"rabbit2": "rabbit", "whale2": "whale", "panda_face": "panda", "fox_face": "fox"}
    name = entry["short_name"]
    name = plain.get(name, name).replace("drum_with_drumsticks", "drum").replace("bulb", "light bulb")
    return name.replace("_", " ")


def _member(tar: tarfile.TarFile, path: str) -> bytes:
    file = tar.extractfile(path)
    if file is None:
        raise InputError(f"{path} is not a file in its npm tarball; delete the tarball and build again")
    return file.read()


def load_pictures(cache: Path, *, side: int = 48) -> list[Picture]:
    """All pictures of the pool, trimmed to their content and scaled to one size.

    Args:
        cache: Folder that keeps the two npm tarballs.
        side: Side of the returned pictures in pixels.

    Returns:
        Pictures in the order of the pool; those that the package lacks are left out.

    Raises:
        InputError: If a tarball cannot be had.
    """
    with tarfile.open(fetch_tarball(NAME_PACKAGE, cache)) as tar:
        entries = {e["short_name"]: e for e in json.loads(_member(tar, "package/emoji.json"))}
    entries["sailboat"] = entries.get("boat", {}) | {"short_name": "sailboat"}
    with tarfile.open(fetch_tarball(PICTURE_PACKAGE, cache)) as tar:
        files = set(tar.getnames())
        pictures = []
        for short_name in POOL:
            path = f"package/assets/{entries.get(short_name, {}).get('unified', '').lower()}.webp"
            if path in files:
                rgba = _trim(Image.open(io.BytesIO(_member(tar, path))).convert("RGBA"), side)
                pictures.append(Picture(name=_plain_name(entries[short_name]), rgba=rgba))
    return pictures


def _trim(image: Image.Image, side: int) -> NDArray[np.float32]:
    """Cut away empty margins, keep the aspect ratio inside a square."""
    box = image.getchannel("A").getbbox() or (0, 0, image.width, image.height)
    image = image.crop(box)
    scale = side / max(image.size)
    image = image.resize([max(1, round(s * scale)) for s in image.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square, dtype=np.float32) / 255.0


def licence_notices(cache: Path) -> str:
    """The licence texts that must travel with anything made from the pictures."""
    with tarfile.open(fetch_tarball(NAME_PACKAGE, cache)) as tar:
        names = _member(tar, "package/LICENSE").decode()
    return (
        f"Pictures: {PICTURE_PACKAGE} (npm), a packaging of Microsoft Fluent Emoji.\n"
        "Copyright (c) Microsoft Corporation and LobeHub contributors, MIT License.\n\n"
        f"Names: {NAME_PACKAGE} (npm).\n{names}"
    )
