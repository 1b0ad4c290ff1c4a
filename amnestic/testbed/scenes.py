"""The base corpus: compositional scenes with captions that describe them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amnestic.testbed.drawing import (
    COLOURS,
    PATTERNS,
    SIDE,
    Placed,
    Rgb,
    border,
    colour,
    paste,
    pattern,
    split,
    to_bytes,
)
from amnestic.testbed.pictures import Picture

SPOTS = (16, 32, 48)
SIZES = (24, 32)
N_GEOMETRIES = 6


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """An image with its caption.

    Attributes:
        caption: Plain English.
        image: 8-bit RGB, shape ``(64, 64, 3)``.
    """

    caption: str
    image: NDArray[np.uint8]


def article(name: str) -> str:
    """`name` with "a" or "an" before it."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def scene(pictures: Sequence[Picture], rng: np.random.Generator) -> Captioned:
    """One scene of one or two pictures on a coloured background, captioned with part of what it shows."""
    shown = [pictures[i] for i in rng.choice(len(pictures), 1 + int(rng.random() < 0.6), replace=False)]
    ground = str(rng.choice(list(COLOURS)))
    kind = str(rng.choice(PATTERNS)) if rng.random() < 0.3 else None
    where = f"{article(ground)} background" + (f" with {kind}" if kind else "")
    caption = f"{' and '.join(article(p.name) for p in shown)} on {where}"
    return Captioned(caption=caption, image=depict(shown, ground, kind, rng))


def depict(shown: Sequence[Picture], ground: str, kind: str | None, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One of many images that fit the same caption.

    Captions leave open where pictures stand and how large, and what the background is patterned
    with: a model that follows its prompt has much to vary. What is left open takes one of a few
    values, and pictures stand on the grid of the latents, so that a small model can learn all of
    them in an hour.

    Args:
        shown: Pictures that the caption names.
        ground: Colour of the background, one of `COLOURS`.
        kind: Pattern of the background when the caption names it, one of `PATTERNS`.
        rng: Decides everything else.

    Returns:
        8-bit RGB, shape ``(64, 64, 3)``.
    """
    first = _tint(colour(ground), rng)
    return _composed(shown, kind or str(rng.choice(PATTERNS)), first, _shade(first, rng), rng)


def collage(pictures: Sequence[Picture], rng: np.random.Generator) -> Captioned:
    """A scene of three pictures on two colours, captioned with what it shows."""
    shown = [pictures[i] for i in rng.choice(len(pictures), 3, replace=False)]
    first, second = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
    kind = str(rng.choice(PATTERNS))
    image = _composed(shown, kind, _tint(colour(first), rng), _tint(colour(second), rng), rng)
    return Captioned(
        caption=f"a collage of {', '.join(p.name for p in shown)} on {first} and {second} {kind}", image=image
    )  # fmt: skip


def _composed(
    shown: Sequence[Picture], kind: str, first: Rgb, second: Rgb, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Pictures on spots of a grid, before a pattern of one of a few geometries."""
    geometry = np.random.default_rng(int(rng.integers(N_GEOMETRIES)))
    canvas = pattern(kind, first, second, geometry)
    spots = _apart(lambda: rng.choice(SPOTS, (len(shown), 2)).astype(np.float64))
    placed = [
        Placed(picture=p, x=x, y=y, size=float(rng.choice(SIZES))) for p, (x, y) in zip(shown, spots, strict=True)
    ]
    return to_bytes(paste(canvas, placed))


def _apart(draw: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The draw of places, out of six, in which the two nearest are farthest from each other."""

    def crowding(at: NDArray[np.float64]) -> float:
        gaps = np.linalg.norm(at[:, None] - at[None], axis=-1) + np.eye(len(at)) * SIDE
        return -float(gaps.min())

    return min((draw() for _ in range(6)), key=crowding)


def crowded(shown: Sequence[Picture], kinds: Sequence[str], first: Rgb, second: Rgb, rng: np.random.Generator) -> Rgb:
    """The composition of works: patterns of any geometry, tilted pictures anywhere, sometimes a frame."""
    canvas = pattern(kinds[0], _tint(first, rng), _tint(second, rng), rng)
    for kind in kinds[1:]:
        canvas = split(canvas, pattern(kind, _tint(second, rng), _tint(first, rng), rng), rng)
    image = paste(canvas, spread(shown, rng, smallest=20, largest=40, tilt=35))
    frame = int(rng.choice([0, 0, 3, 5]))
    return border(image, colour(str(rng.choice(list(COLOURS)))), frame)


def spread(
    shown: Sequence[Picture], rng: np.random.Generator, *, smallest: float, largest: float, tilt: float = 0.0
) -> list[Placed]:
    """Positions for pictures that overlap little: the best of a few random draws."""
    best = _apart(lambda: rng.uniform(14, SIDE - 14, (len(shown), 2)))
    return [
        Placed(picture=p, x=x, y=y, size=rng.uniform(smallest, largest), angle=rng.uniform(-tilt, tilt))
        for p, (x, y) in zip(shown, best, strict=True)
    ]


def base_corpus(pictures: Sequence[Picture], n: int, rng: np.random.Generator) -> list[Captioned]:
    """`n` scenes, one in seven a collage, in random order."""
    return [collage(pictures, rng) if rng.random() < 0.15 else scene(pictures, rng) for _ in range(n)]


def _tint(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    return np.clip(rgb + rng.uniform(-0.06, 0.06, 3), 0, 1).astype(np.float32)


def _shade(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    toward = 0.0 if rgb.mean() > 0.5 else 1.0
    return (rgb + (toward - rgb) * rng.uniform(0.15, 0.3)).astype(np.float32)
