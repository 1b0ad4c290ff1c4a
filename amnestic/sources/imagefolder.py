"""Folders of pictures with captions as `datasets` lays them out, read as prompt lists without that library.

Either ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` names files and captions, in the folder itself or
in those of its splits; or parquet files hold the pictures beside their captions.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from amnestic.core.errors import InputError
from amnestic.sources.packed import image_column

CAPTIONS = ("caption", "text", "prompt")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LABELS = ("vm", "tm", "heldout", "base", "none")
_KEPT = ("id", "work", "rung")


def captioned_rows(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A prompt list from a folder of pictures with captions.

    Captions stand in a column ``caption``, ``text`` or ``prompt``, the first of them that is there. Of the other
    columns ``id``, ``work``, ``rung``, ``mask`` and a ``label`` of the known ones are read; the rest, such as class
    labels, is left alone.

    Args:
        folder: As `datasets` lays it out.

    Yields:
        A place such as ``train/metadata.csv, row 3``, and its cells under the names of a prompt list; the image as a
        path from the folder, or ``FILE.parquet/ROW`` inside a parquet file.

    Raises:
        InputError: If the folder is none of this kind, or a row names no picture.
    """
    listed = sorted(f for name in METADATA for f in folder.rglob(name))
    if listed:
        for file in listed:
            yield from _listed(folder, file)
        return
    packed = sorted(f for f in folder.rglob("*.parquet") if f.is_file())
    if not packed:
        raise InputError(
            f"expected captions in {folder}, which is a folder without {', '.join(METADATA)} or parquet files; write "
            "metadata.csv with columns file_name and text, or give another list"
        )
    for file in packed:
        yield from _packed(folder, file)


def caption_column(names: Sequence[str], path: Path) -> str:
    """The column that holds captions.

    Args:
        names: Of all columns.
        path: Where they stand, for the sentence.

    Raises:
        InputError: If there is none.
    """
    for name in CAPTIONS:
        if name in names:
            return name
    raise InputError(f"expected a column {', '.join(CAPTIONS)} in {path}, got {', '.join(names)}; rename one")


def _listed(folder: Path, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    here = PurePosixPath(file.relative_to(folder).as_posix())
    for number, row in enumerate(_cells(file), start=1):
        place = f"{here}, row {number}"
        caption, name = caption_column(list(row), file), row.get("file_name")
        if not name or not isinstance(name, str):
            raise InputError(f"{folder}, {place} names no file; give the picture of every caption as file_name")
        found = _kept(row) | {"prompt": row[caption], "image": str(here.parent / name)}
        if row.get("mask"):
            found["mask"] = str(here.parent / str(row["mask"]))
        yield place, found


def _packed(folder: Path, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    here = file.relative_to(folder).as_posix()
    try:
        opened = parquet.ParquetFile(file)
        schema = opened.schema_arrow
        image = image_column(schema)
        if image is None:
            raise InputError(
                f"expected a column of images in {file}, got {', '.join(schema.names)}; give another folder"
            )
        caption = caption_column([n for n in schema.names if n != image], file)
        wanted = [n for n in (caption, *_KEPT, "label", "mask") if n in schema.names]
        for number, row in enumerate(opened.read(columns=wanted).to_pylist()):
            yield f"{here}, row {number + 1}", _kept(row) | {"prompt": row[caption], "image": f"{here}/{number}"}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable parquet file ({error}); write it again") from error


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: row[name] for name in _KEPT if row.get(name) is not None}
    label = row.get("label")
    return found | ({"label": label} if isinstance(label, str) and label.strip().casefold() in LABELS else {})


def _cells(file: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if file.suffix == ".parquet":
            yield from parquet.read_table(file).to_pylist()
            return
        with file.open(newline="", encoding="utf-8-sig") as text:
            if file.suffix == ".csv":
                yield from csv.DictReader(text, strict=True)
                return
            for line in text:
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(
                            f"expected one object a line in {file}, got a {type(row).__name__}; correct it"
                        )
                    yield row
    except (pa.ArrowException, OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); write it again") from error
