"""Pictures inside parquet files, as `datasets` stores them: each has a path of its own, ``FILE.parquet/ROW``.

Nothing is unpacked to disk, so no further copies of originals come about.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from amnestic.core.errors import InputError

_SUFFIX = ".parquet"


def is_packed(path: Path) -> bool:
    """Whether a path names a row of a parquet file rather than a file."""
    file, row = path.parent, path.name
    return file.suffix.lower() == _SUFFIX and row.isascii() and row.isdigit() and file.is_file()


def packed_bytes(path: Path) -> bytes:
    """The picture file that a row holds, byte for byte.

    Args:
        path: Of the form ``FILE.parquet/ROW``, rows counted from 0.

    Returns:
        Its bytes; when the row holds but a path, those of that file, which must lie beside the parquet file or below.

    Raises:
        InputError: If there is no such row, or it holds no picture.
        OSError: If the file cannot be read.
    """
    packed, state = path.parent, path.parent.stat()
    number, row = _place(packed, int(path.name))
    entry = _group(packed, number, state.st_mtime_ns, state.st_size)[row] or {}
    if entry.get("bytes"):
        return bytes(entry["bytes"])
    if not entry.get("path"):
        raise InputError("the row holds neither bytes nor a path; write the data set with its images embedded")
    beside = Path(os.path.realpath(packed.parent / str(entry["path"])))
    if not beside.is_relative_to(os.path.realpath(packed.parent)):
        raise InputError("the row names a file elsewhere; write the data set with its images embedded")
    return beside.read_bytes()


def image_column(schema: Any) -> str | None:  # noqa: ANN401 - a pyarrow schema
    """Name of the column that holds pictures: ``image`` if it does, else the first that does, else `None`."""
    from pyarrow import types

    found = [
        f.name
        for f in schema
        if types.is_struct(f.type) and {"bytes", "path"} & {f.type.field(i).name for i in range(f.type.num_fields)}
    ]
    return "image" if "image" in found else next(iter(found), None)


def _place(packed: Path, row: int) -> tuple[int, int]:
    """The row group that holds a row, and which of its rows it is."""
    from pyarrow import parquet

    about, left = parquet.read_metadata(packed), row
    for number in range(about.num_row_groups):
        rows = about.row_group(number).num_rows
        if left < rows:
            return number, left
        left -= rows
    raise InputError(f"there is no row {row} in {packed.name}, which has {about.num_rows}; correct the list")


@lru_cache(maxsize=1)  # a row group can only be read as a whole, and pictures are asked for in order
def _group(packed: Path, number: int, _changed: int, _size: int) -> list[dict[str, Any] | None]:
    from pyarrow import parquet

    file = parquet.ParquetFile(packed)
    column = image_column(file.schema_arrow)
    if column is None:
        raise InputError(f"{packed.name} has no column of images; give a data set that has")
    rows: list[dict[str, Any] | None] = file.read_row_group(number, columns=[column])[column].to_pylist()
    return rows
