"""Read a prompt list: CSV, TSV, JSONL or parquet, in our columns or in those of published lists.

Prompts are hostile text. They are kept to the letter and never interpreted; what is checked is everything that
becomes a file name, a path or a number.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Any

from amnestic.core.errors import InputError
from amnestic.core.records import Prompt, digest
from amnestic.core.store import SAFE_ID
from amnestic.sources.imagefolder import captioned_rows

COLUMNS = tuple(f.name for f in fields(Prompt))
LABELS = {label.casefold(): label for label in ("VM", "TM", "heldout", "base", "none")}
ALIASES = {
    "caption": "prompt", "text": "prompt", "index": "id", "type": "label", "file_name": "image", "image_path": "image",
}  # fmt: skip
ADDRESS = "url"
IGNORED = frozenset({"", ADDRESS, "mean_sscd", "max_sscd", "unnamed: 0", "__index_level_0__"})

_DELIMITERS = {".csv": ",;\t", ".tsv": "\t,;"}
_EXTENSIONS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WHOLE = re.compile(r"([+-]?[0-9]{1,9})(\.0+)?")

# A place such as "row 3" and the cells that were found there, under the file's own column names.
_Row = tuple[str, Mapping[str, Any]]


def read_prompts(path: Path, *, remote: bool = False) -> tuple[Prompt, ...]:
    """Read a prompt list.

    The format follows from the file's extension and content. Columns are ``id prompt image label work rung mask``;
    only ``prompt`` is needed. Names are matched without regard to case, and those of published lists are understood:
    ``caption``, ``text``, ``index``, ``type``, ``file_name``, ``image_path``. ``url``, ``mean_sscd``, ``max_sscd``
    and unnamed columns are ignored. A row without an id is called ``p0001`` and so on after its position.

    Args:
        path: CSV (comma or semicolon), TSV, JSONL (one object a line) or parquet; UTF-8 with or without mark. Or a
            folder as `datasets` lays out images with captions.
        remote: Whether originals may be ``http`` addresses: those in the column of images, else those in ``url``.

    Returns:
        The prompts in the order of the file, with distinct ids and the texts unchanged.

    Raises:
        InputError: If the file cannot be read, holds no rows, or a cell cannot be used; the sentence names the row.

    Source:
        Columns of the lists published with Wen et al., "Detecting, Explaining, and Mitigating Memorization in
        Diffusion Models" (2024) and Hintersdorf et al., "Finding NeMo" (2024).
    """
    rows = _rows(path)
    prompts: list[Prompt] = []
    first: dict[str, str] = {}
    for number, (place, cells) in enumerate(rows, start=1):
        where = f"{path}, {place}"
        prompt = _prompt(_canonical(cells, where, remote), where, number, remote)
        if prompt.id in first:
            raise InputError(f"{where}: id {prompt.id!r} is also that of {first[prompt.id]}; give every prompt its own")
        first[prompt.id] = place
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"prompt list is empty: {path} holds no rows; add at least one prompt")
    return tuple(prompts)


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 over every field of every prompt, in order.

    Args:
        prompts: P prompts.

    Returns:
        64 hexadecimal digits; equal for equal lists, whatever file format they came from.

    Example:
        >>> a, b = Prompt(id="a", prompt="x"), Prompt(id="b", prompt="y")
        >>> prompts_digest([a, b]) == prompts_digest((a, b))
        True
        >>> prompts_digest([a, b]) == prompts_digest([b, a])
        False
    """
    return digest(list(prompts))


def stays_inside(path: str) -> bool:
    """Whether a path can only lead to somewhere below the folder it is relative to.

    Checked by the rules of both path styles, so a list means the same on every system.

    Args:
        path: Path as written in a list.

    Returns:
        False for absolute paths, drives and any ``..``.

    Example:
        >>> [stays_inside(p) for p in ("a/b.png", "/a.png", "a/../b.png", "C:b.png")]
        [True, False, False, False]
    """
    windows = PureWindowsPath(path)
    return not (windows.drive or windows.root or ".." in windows.parts)


def is_address(text: str) -> bool:
    """Whether a cell names something to be fetched rather than a file.

    Example:
        >>> [is_address(t) for t in ("https://example.org/a.png", "a/b.png", "FTP://host/x")]
        [True, False, True]
    """
    return _ADDRESS.match(text) is not None


def _rows(path: Path) -> Iterator[_Row]:
    """Rows of the file in whichever format it has."""
    if path.is_dir():
        return captioned_rows(path)
    content = _content(path)
    kind = _EXTENSIONS.get(path.suffix.lower(), "")
    if content.startswith(b"PAR1") or kind == "parquet":
        return _parquet_rows(content, path)
    text = _text_of(content, path)
    if kind == "jsonl" or (not kind and text.lstrip()[:1] in ("{", "[")):
        return _jsonl_rows(text, path)
    return _csv_rows(text, path)


def _content(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"prompt list {path} does not exist; give a CSV, TSV, JSONL or parquet file")
    if not path.is_file():
        raise InputError(f"prompt list {path} is not a regular file; give a CSV, TSV, JSONL or parquet file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"prompt list {path} cannot be read ({error.strerror}); check its permissions") from error


def _text_of(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{path}, line {line}: holds a NUL byte; save it as UTF-8 text without NUL")
    return text


def _csv_rows(text: str, path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, path), strict=True)
    try:
        filled = (cells for cells in reader if cells)
        header = next(filled, [])
        if header:
            _require_columns(header, str(path))
        for number, cells in enumerate(filled, start=1):
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, row {number}: {len(cells)} fields where the header has {len(header)}; "
                    "put texts that hold the separator in double quotes"
                )
            yield f"row {number}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error}); check the quotes") from error


def _delimiter(text: str, path: Path) -> str:
    """The separator under which most of the header's names are known; the extension decides ties."""
    start = text.lstrip("\r\n")

    def known(delimiter: str) -> int:
        try:
            header = next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), [])
        except csv.Error:
            return 0
        return sum(_column(name) is not None for name in header if name.strip())

    return max(_DELIMITERS.get(path.suffix.lower(), ",;\t"), key=known)


def _jsonl_rows(text: str, path: Path) -> Iterator[_Row]:
    # Not splitlines(): U+2028 and friends are legal inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            value = json.loads(line, object_pairs_hook=_distinct)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, {place}: broken JSON ({error}); write one object per line") from error
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise InputError(f"{path}, {place}: expected a JSON object, got {kind}; write one object per line")
        _require_columns(list(value), f"{path}, {place}")
        yield place, value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _parquet_rows(content: bytes, path: Path) -> Iterator[_Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        names: list[str] = list(file.schema_arrow.names)
        _require_columns(names, str(path))
        wanted = [name for name in names if _column(name) or name.strip().casefold() == ADDRESS]
        table = file.read(columns=wanted).select(wanted)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}); write it again") from error
    for number, cells in enumerate(rows, start=1):
        yield f"row {number}", cells


def _column(name: str) -> str | None:
    """Canonical name of a column, empty when it is ignored, or `None` when it is unknown."""
    plain = name.strip().casefold()
    if plain in IGNORED:
        return ""
    plain = ALIASES.get(plain, plain)
    return plain if plain in COLUMNS else None


def _require_columns(names: Sequence[str], where: str) -> None:
    """Every name known, none twice, and a prompt among them."""
    known = f"known columns are {', '.join(COLUMNS)}; also {', '.join(ALIASES)}"
    seen: dict[str, str] = {}
    for name in names:
        column = _column(name)
        if column is None:
            close = get_close_matches(name.strip().casefold(), [*COLUMNS, *ALIASES], n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise InputError(f"{where}: unknown column {_shown(name)}{hint} {known}")
        if column and column in seen:
            both = f"{_shown(seen[column])} and {_shown(name)}"
            raise InputError(f"{where}: columns {both} both mean {column!r}; keep one of them")
        seen[column] = name
    if "prompt" not in seen:
        raise InputError(f"{where}: no column 'prompt'; {known}")


def _canonical(cells: Mapping[str, Any], where: str, remote: bool) -> dict[str, str]:
    """Cells as text under canonical names; ignored columns are dropped."""
    found, address = {}, ""
    for name, value in cells.items():
        if column := _column(name):
            found[column] = _cell(value, column, where)
        elif remote and name.strip().casefold() == ADDRESS:
            address = _cell(value, ADDRESS, where)
    return {**found, "image": found.get("image") or address} if address else found


def _cell(value: Any, column: str, where: str) -> str:  # noqa: ANN401 - JSON and parquet hold any type
    """A cell as text: nothing for a missing value, digits for a whole number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InputError(f"{where}: {column} must be text or a whole number, got {kind}; write it as text")
    if "\0" in value:
        raise InputError(f"{where}: {column} holds a NUL character; remove it")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: {column} holds half of a surrogate pair; write the whole character")
    return value


def _prompt(cells: Mapping[str, str], where: str, number: int, remote: bool) -> Prompt:
    if not cells.get("prompt", "").strip():
        raise InputError(f"{where}: the prompt is empty; give a text or remove the row")
    return Prompt(
        id=_id(cells.get("id", ""), where, number),
        prompt=cells["prompt"],
        image=_image(cells.get("image", ""), where, remote),
        label=_label(cells.get("label", ""), where),
        work=cells.get("work", ""),
        rung=_rung(cells.get("rung", ""), where),
        mask=_inside(cells.get("mask", ""), "mask", where),
    )


def _id(text: str, where: str, number: int) -> str:
    if not text:
        return f"p{number:04d}"
    if not SAFE_ID.fullmatch(text):
        raise InputError(
            f"{where}: id {_shown(text)} must be at most 128 letters, digits, dots, dashes or underscores "
            "and start with a letter or digit; rename it"
        )
    return text


def _image(text: str, where: str, remote: bool) -> str:
    if not is_address(text):
        return _inside(text, "image", where)
    if not remote:
        raise InputError(
            f"{where}: image {_shown(text)} is an address, and an audit reads files only; run amnestic fetch on this "
            "list, and audit the list that it writes"
        )
    return text


def _inside(text: str, column: str, where: str) -> str:
    if not stays_inside(text):
        raise InputError(
            f"{where}: {column} {_shown(text)} must stay inside the reference folder; "
            "give a path relative to it, without '..'"
        )
    return text


def _label(text: str, where: str) -> str:
    name = text.strip().casefold() or "none"
    if name not in LABELS:
        close = get_close_matches(name, LABELS, n=1)
        hint = f", did you mean {LABELS[close[0]]!r}?" if close else ";"
        raise InputError(f"{where}: unknown label {_shown(text)}{hint} known labels are {', '.join(LABELS.values())}")
    return LABELS[name]


def _rung(text: str, where: str) -> int | None:
    if not text.strip():
        return None
    whole = _WHOLE.fullmatch(text.strip())
    if not whole:
        raise InputError(f"{where}: rung must be a whole number or empty, got {_shown(text)}; correct it")
    return int(whole[1])


def _shown(value: str) -> str:
    """Hostile text for a message: control characters escaped, length bounded."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
