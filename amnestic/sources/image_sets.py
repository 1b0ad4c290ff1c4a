"""Pictures without prompts, or with captions: a folder, or a parquet file as `datasets` stores images."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amnestic.core.errors import InputError
from amnestic.sources.imagefolder import caption_column, captioned_rows
from amnestic.sources.images import ImageProblem, open_image
from amnestic.sources.packed import is_packed

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def require_image_set(path: Path) -> None:
    """Refuse what holds no images, without reading them.

    Raises:
        InputError: If it is neither a folder with images nor a parquet file.
    """
    if path.is_dir():
        if not _files(path):
            raise InputError(f"{path} holds no images ({', '.join(SUFFIXES)}); give another folder")
    elif not (path.suffix == ".parquet" and path.is_file()):
        raise InputError(f"expected a folder of images or a parquet file, got {path}; check the path")


def read_image_set(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a set, one after the other.

    Args:
        path: A folder of pictures, or a parquet file with a column ``image`` that holds ``bytes``.

    Yields:
        8-bit RGB, ``(H, W, 3)`` each, in the order of their names or rows.

    Raises:
        InputError: If there is none, or one cannot be read; the sentence names it.
    """
    require_image_set(path)
    if path.is_dir():
        yield from (_opened(f, f.name) for f in _files(path))
    else:
        yield from _from_parquet(path)


def read_captioned(path: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The pictures of a set with their captions, one after the other.

    Args:
        path: A folder as `datasets` lays it out, such as pictures with a ``metadata.csv`` of ``file_name`` and
            ``caption``; or a parquet file with a column ``image`` that holds ``bytes``. Captions stand in a column
            ``caption``, ``text`` or ``prompt``.

    Yields:
        Caption and 8-bit RGB, ``(H, W, 3)``.

    Raises:
        InputError: If there is none, captions are missing, or a picture cannot be read.
    """
    if not path.is_dir():
        require_image_set(path)
        yield from _captioned_parquet(path)
        return
    for place, cells in captioned_rows(path):
        name = cells["image"]
        if not ((path / name).is_file() or is_packed(path / name)):
            raise InputError(f"{path}, {place} names {name}, which is not there; correct the list")
        yield cells["prompt"] or "", _opened(path / name, name)


def _captioned_parquet(path: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    from pyarrow import ArrowException, parquet

    try:
        file, row = parquet.ParquetFile(path), 0
        column = caption_column(file.schema_arrow.names, path)
        for batch in file.iter_batches(batch_size=64, columns=["image", column]):
            for entry in batch.to_pylist():
                yield entry[column] or "", _opened(io.BytesIO(entry["image"]["bytes"]), f"row {row} of {path}")
                row += 1
    except (ArrowException, KeyError, TypeError) as error:
        raise InputError(f"expected a column image with bytes in {path} ({error}); write it with datasets") from error


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)


def _from_parquet(path: Path) -> Iterator[NDArray[np.uint8]]:
    from pyarrow import ArrowException, parquet

    try:
        row = 0
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=64, columns=["image"]):
            for entry in batch.to_pylist():
                yield _opened(io.BytesIO(entry["image"]["bytes"]), f"row {row} of {path}")
                row += 1
    except (ArrowException, KeyError, TypeError) as error:
        raise InputError(f"expected a column image with bytes in {path} ({error}); write it with datasets") from error
    if not row:
        raise InputError(f"{path} holds no images; give another file")


def _opened(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    try:
        if isinstance(source, Path):
            return open_image(source)
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB"))
    except (ImageProblem, OSError) as error:
        raise InputError(f"{name} cannot be read as an image ({error}); remove or replace it") from error
