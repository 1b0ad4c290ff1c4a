"""Open one picture that comes from elsewhere, or say why not.

Files of a reference set are as untrusted as prompts are: cut off, empty, renamed, far too large. Every way of
failing ends in one exception with one reason, so a caller can count what it could not use.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from amnestic.core.errors import InputError
from amnestic.sources.packed import is_packed, packed_bytes

# Named formats only: Pillow would otherwise hand a file that calls itself PostScript to an external program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageProblem(InputError):
    """A picture cannot be used.

    Attributes:
        reason: Why, and what to do; without the file's path, so that it can be kept in a record.
    """

    reason: str

    def __init__(self, reason: str, path: Path | None = None) -> None:
        """Give the reason, and the file to name in front of it."""
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason


def open_image(path: Path, *, max_pixels: int = 64_000_000) -> NDArray[np.uint8]:
    """Read a picture as 8-bit RGB, upright and without transparency.

    The EXIF orientation is applied, alpha is composited on white, 16-bit grey keeps its high byte, and the first
    frame stands for an animation. Colour profiles are not applied. The size is checked before anything is decoded.

    Args:
        path: A PNG, JPEG, WebP, BMP, TIFF or GIF file, whatever its name ends in; or a row of a parquet file, see
            `amnestic.sources.packed`.
        max_pixels: Largest accepted width times height.

    Returns:
        Array (H, W, 3) of unsigned bytes in [0, 255], writable and owned by the caller.

    Raises:
        ImageProblem: If the file is missing, empty, no picture, damaged or too large; its `reason` says which.
    """
    try:
        source = io.BytesIO(packed_bytes(path)) if is_packed(path) else _with_content(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(source, max_pixels)
    except ImageProblem as problem:
        raise ImageProblem(problem.reason, path) from problem
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageProblem(_too_large("its header", max_pixels), path) from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        reason = f"not an image, or cut off before its size is given; expected one of {known}"
        raise ImageProblem(reason, path) from error
    except Exception as error:  # a damaged file may raise anything inside Pillow's parsers
        raise ImageProblem(_failure(error), path) from error


def _with_content(path: Path) -> Path:
    if not path.exists():
        raise ImageProblem("no such file; check its path")
    if not path.is_file():
        raise ImageProblem("not a file; give the path of a picture")
    if path.stat().st_size == 0:
        raise ImageProblem("empty (0 bytes); fetch or export it again")
    return path


def _failure(error: Exception) -> str:
    # Only the system sets an error number; its text would hold the path, which must not enter a record.
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror}); check links and permissions"
    return f"truncated or damaged ({type(error).__name__}: {error}); fetch or export it again"


def _too_large(size: str, max_pixels: int) -> str:
    return f"too large: {size} announces more than {max_pixels} pixels; give a smaller copy"


def _decode(source: Path | io.BytesIO, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(source, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageProblem(_too_large(f"{width} x {height}", max_pixels))
        image.load()
        # Read after loading: Pillow turns TIFF by itself while it loads and then drops the tag.
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        flat = _on_white(image)
        return np.array(flat if turn is None else flat.transpose(turn), dtype=np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB with alpha composited on white."""
    if image.mode.startswith("I;16"):
        return _high_byte(image)
    if image.mode in ("I", "F"):
        raise ImageProblem(f"pixels of mode {image.mode!r} have no known range; save it with 8 bits per channel")
    if not image.has_transparency_data:
        return image.convert("RGB")
    colour = image.convert("RGBA")
    white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colour).convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey as RGB; Pillow's own conversion would clip everything above 255 to white."""
    deep = np.asarray(image).astype(np.uint16)
    grey = (deep >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[deep == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")
