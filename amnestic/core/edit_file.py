"""An edit as one file: safetensors, with what it is and where it comes from in the header."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from amnestic.core.edits import Edit, changes_from
from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import SCHEMA, MethodSpec, plain

HEADER = "amnestic-edit.json"
"""What lies beside the weights of an edited model: which edit it is, but not where it was cut."""
FINETUNED = "finetuning"
"""``kind`` in the header of a model that was fine-tuned: there ``edit`` names a record, and no edit file exists."""


def save_edit(path: Path, edit: Edit, about: Mapping[str, Any]) -> None:
    """Write an edit, atomically.

    Args:
        path: The file.
        edit: What is changed.
        about: Plain data that belongs to it: what it was located by, the protocol, the model after it.

    The old values are in it, so whoever has the file can bring back what was cut; it stays with the audit.
    """
    header = {
        "schema": SCHEMA, "model": edit.model, "made_by": plain(edit.made_by), "parents": list(edit.parents),
        "about": plain(about),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(
        {k: v.contiguous() for k, v in edit.tensors().items()}, partial, metadata={"amnestic": json.dumps(header)}
    )  # fmt: skip
    partial.replace(path)


def load_edit(path: Path) -> tuple[Edit, dict[str, Any]]:
    """An edit, and what belongs to it.

    Raises:
        StoreError: If the file is damaged, only half written, of another schema, or no edit at all.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("amnestic", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as an edit ({error}); make the edit again") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        came = header.get("schema") if isinstance(header, dict) else "no edit"
        raise StoreError(f"expected an edit of schema {SCHEMA} in {path}, got {came}; make the edit again")
    try:
        edit = Edit(
            model=header["model"], changes=changes_from(tensors), made_by=MethodSpec(**header["made_by"]),
            parents=tuple(header["parents"]),
        )  # fmt: skip
        about: dict[str, Any] = dict(header["about"])
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"the edit in {path} is damaged ({error}); make the edit again") from error
    return edit, about


def read_header(folder: Path) -> dict[str, Any] | None:
    """What a model folder says of the edit that made it; `None` if it says nothing.

    Raises:
        StoreError: If it cannot be read, or is of another schema.
    """
    file = folder / HEADER
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}); prune again into another folder") from error
    wanted = {"schema", "edit", "model", "result", "dtype"}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or wanted - set(content):
        raise StoreError(f"{file} is no header of schema {SCHEMA}; prune again into another folder")
    return content
