"""What a finished audit says of itself, and files that a person wants of it."""

import json
from pathlib import Path
from typing import Any

from amnestic.core.errors import InputError, StoreError
from amnestic.core.store import Run, write_atomically


def summary_of(run: Run) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        run: Folder of an audit.

    Returns:
        Plain data, as `amnestic.audit.summary.summarize` made it.

    Raises:
        StoreError: If the audit has not finished, or the file is damaged.
    """
    file = run.folder / "summary.json"
    if not file.is_file():
        raise StoreError(f"{run.folder} has not finished (no summary.json); issue its command again first")
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}); issue the audit's command again") from error
    missing = [key for key in ("protocol", "descriptor", "leak_rate") if not isinstance(_of(content, key), dict)]
    if missing:
        raise StoreError(f"{file} is no summary of an audit (no {', '.join(missing)}); issue the audit's command again")
    summary: dict[str, Any] = content
    return summary


def write_result(file: Path, text: str) -> None:
    """Write what was asked for where a person wants it.

    Args:
        file: Where to; missing folders are made.
        text: All of it.

    Raises:
        InputError: If it cannot be written there.
    """
    try:
        write_atomically(file, text)
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); give another file") from error


def _of(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, dict) else None
