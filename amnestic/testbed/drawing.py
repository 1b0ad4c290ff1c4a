"""Backgrounds and compositions, drawn with numpy: no file, no model, no global state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amnestic.testbed.pictures import Picture

SIDE = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 50),
    "orange": (240, 140, 40),
    "yellow": (245, 215, 75),
    "green": (60, 150, 70),
    "teal": (30, 150, 150),
    "blue": (50, 95, 200),
    "purple": (125, 70, 170),
    "pink": (240, 150, 185),
    "brown": (130, 85, 50),
    "grey": (140, 140, 145),
    "white": (240, 240, 236),
    "navy": (25, 35, 75),
}
PATTERNS = ("stripes", "checks", "rings", "spots", "horizon", "rays")

Rgb = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One picture with where and how it stands in an image (pixels, degrees)."""

    picture: Picture
    x: float
    y: float
    size: float
    angle: float = 0.0


def colour(name: str) -> Rgb:
    """The named colour as RGB in [0, 1], shape ``(3,)``."""
    return np.array(COLOURS[name], dtype=np.float32) / 255.0


def plain(fill: Rgb, *, side: int = SIDE) -> Rgb:
    """A canvas of one colour, shape ``(side, side, 3)``."""
    return np.broadcast_to(fill, (side, side, 3)).astype(np.float32).copy()


def pattern(kind: str, first: Rgb, second: Rgb, rng: np.random.Generator, *, side: int = SIDE) -> Rgb:
    """A two-coloured background of one kind with random geometry.

    Args:
        kind: One of `PATTERNS`.
        first: Colour of the ground, RGB in [0, 1].
        second: Colour of the figure, RGB in [0, 1].
        rng: Source of angle, spacing and phase.
        side: Side in pixels.

    Returns:
        Image in [0, 1], shape ``(side, side, 3)``, with soft edges one pixel wide.
    """
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 1)
    cx, cy = rng.uniform(0.2, 0.8, 2) * side
    period = rng.uniform(11, 22)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = -x * np.sin(angle) + y * np.cos(angle)
    radius = np.hypot(x - cx, y - cy)
    if kind == "stripes":
        wave = _wave(along, period, phase)
    elif kind == "checks":
        wave = _wave(along, period * 1.3, phase) * _wave(across, period * 1.3, phase)
    elif kind == "rings":
        wave = _wave(radius, period, phase)
    elif kind == "spots":
        near_x, near_y = (np.mod(v + phase * period, period) - period / 2 for v in (along, across))
        wave = period * 0.3 - np.hypot(near_x, near_y)
    elif kind == "horizon":
        wave = y - side * rng.uniform(0.4, 0.75) + 3 * np.sin(x / side * 2 * np.pi * rng.uniform(0, 2) + phase * 6)
    else:
        spokes = rng.integers(4, 9)
        wave = np.sin(np.arctan2(y - cy, x - cx) * spokes + phase * 6) * np.maximum(radius, 1) / spokes
    mix = np.clip(wave + 0.5, 0, 1)[..., None].astype(np.float32)
    mixed: Rgb = first * (1 - mix) + second * mix
    return mixed


def _wave(distance: Rgb, period: float, phase: float) -> Rgb:
    wave: Rgb = np.sin((distance / period + phase) * 2 * np.pi) * period / 6
    return wave


def split(one: Rgb, other: Rgb, rng: np.random.Generator) -> Rgb:
    """Two images joined along a straight line through the middle region."""
    side = one.shape[0]
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    cx, cy = rng.uniform(0.4, 0.6, 2) * side
    mix = np.clip((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle) + 0.5, 0, 1)[..., None]
    joined: Rgb = (one * (1 - mix) + other * mix).astype(np.float32)
    return joined


def paste(canvas: Rgb, placed: Sequence[Placed]) -> Rgb:
    """Lay pictures over a canvas, in order.

    Args:
        canvas: Image in [0, 1], shape ``(side, side, 3)``; not changed.
        placed: What to lay where; centres in pixels.

    Returns:
        A new image of the same shape.
    """
    out = canvas.copy()
    for item in placed:
        size = max(4, round(item.size))
        rgba = Image.fromarray((item.picture.rgba * 255).astype(np.uint8), "RGBA")
        rgba = rgba.resize((size, size), Image.Resampling.LANCZOS)
        if item.angle:
            rgba = rgba.rotate(item.angle, resample=Image.Resampling.BICUBIC, expand=True)
        _blend(out, np.asarray(rgba, dtype=np.float32) / 255.0, round(item.x), round(item.y))
    return out


def _blend(out: Rgb, rgba: Rgb, x: int, y: int) -> None:
    height, width = rgba.shape[:2]
    top, left = y - height // 2, x - width // 2
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + height, out.shape[0]), min(left + width, out.shape[1])
    if y0 >= y1 or x0 >= x1:
        return
    part = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = part[..., 3:]
    out[y0:y1, x0:x1] = out[y0:y1, x0:x1] * (1 - alpha) + part[..., :3] * alpha


def border(canvas: Rgb, fill: Rgb, width: int) -> Rgb:
    """The same image with a frame of one colour, `width` pixels on each side."""
    out = canvas.copy()
    if width:
        out[:width], out[-width:], out[:, :width], out[:, -width:] = fill, fill, fill, fill
    return out


def to_bytes(image: Rgb) -> NDArray[np.uint8]:
    """An image in [0, 1] as 8-bit RGB."""
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
