"""The run folder: what is written where, atomically, and what is still missing.

```
RUN/
├── manifest.json            what the run is (settings, provenance); settings never change
├── events.jsonl             what happened when
├── samples.parquet          a row per prompt and seed
├── matches.parquet          a row per prompt and seed: scores against the references
├── images/PROMPT/           SEED.png, SEED.safetensors (the latent) or both
├── records/STAGE-DIGEST/    record.json and tensors.safetensors
├── summary.json
├── report.html
└── SHA256SUMS               what was sealed; see `amnestic.core.seal`
```
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amnestic.core.errors import InputError, StoreError
from amnestic.core.provenance import provenance
from amnestic.core.records import SCHEMA, Keep, MethodSpec, Unit, digest, plain

if TYPE_CHECKING:
    from torch import Tensor

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RECORD_ID = re.compile(r"(.+)-[0-9a-f]{12}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any plain data
    """Write plain data as readable JSON, atomically; NaN and infinity, which JSON does not know, are refused."""
    text = json.dumps(plain(value), indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one stage left behind.

    Attributes:
        stage: Name of the stage.
        made_by: The method with its parameters.
        parents: Digests of what it was computed from.
        data: Plain results.
        tensors: Larger results.
    """

    stage: str
    made_by: MethodSpec
    parents: tuple[str, ...]
    data: Mapping[str, Any]
    tensors: Mapping[str, "Tensor"]

    @property
    def id(self) -> str:
        """Identity: stage, method and parents; not what came out."""
        return record_id(self.stage, self.made_by, self.parents)


def record_id(stage: str, made_by: MethodSpec, parents: Sequence[str]) -> str:
    """Folder name of a record, known before it is computed."""
    return f"{stage}-{digest(stage, made_by, list(parents), SCHEMA)[:12]}"


def stage_of(record: str) -> str:
    """The stage in a name that `record_id` gives; empty for any other name.

    Example:
        >>> stage_of("attack-arm-0123456789ab"), stage_of("attack-0123456789ab"), stage_of("attack-arm")
        ('attack-arm', 'attack', '')
    """
    found = RECORD_ID.fullmatch(record)
    return found[1] if found else ""


class Run:
    """A run folder that refuses to mix settings.

    Attributes:
        folder: Where it lies.
        written: Names of files that it wrote, deleted or announced with `claim`, which a seal takes as they are.
    """

    def __init__(self, folder: Path) -> None:
        """Name a folder; nothing is read or written yet."""
        self.folder = folder
        self.written = set[str]()

    @classmethod
    def start(
        cls, folder: Path, settings: Mapping[str, Any], *, provenance: Callable[[], Mapping[str, Any]] = provenance
    ) -> "Run":
        """Open a run for these settings: a new folder, or one that was made with the same.

        Args:
            folder: The run folder.
            settings: Everything that decides the results; not batch size, device or processes.
            provenance: Tells what a third party needs to repeat the run, and decides nothing; asked for a new run only.

        Returns:
            The run, ready to continue.

        Raises:
            StoreError: If the folder holds a run made with other settings, or something else.
        """
        run, wanted = cls(folder), plain(settings)
        if run.manifest_file.exists():
            run._require_same(run.manifest()["settings"], wanted)
            return run
        if folder.exists() and any(folder.iterdir()):
            raise StoreError(f"{folder} is not empty and holds no run; give another --out or empty it")
        content = {"schema": SCHEMA, "settings": wanted, "digest": digest(wanted), "provenance": plain(provenance())}
        write_json(run.manifest_file, content)
        run.written.add(run.manifest_file.name)
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises:
            StoreError: If the folder holds no run, or one of another schema.
        """
        run = cls(folder)
        if not run.manifest_file.exists():
            raise StoreError(f"{folder} holds no run (no manifest.json); give the folder named by --out")
        run.manifest()
        return run

    @property
    def manifest_file(self) -> Path:
        """Where the run says what it is."""
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """The manifest, checked for its schema.

        Raises:
            StoreError: If it cannot be read or was written by another schema.
        """
        try:
            content: dict[str, Any] = json.loads(self.manifest_file.read_text())
        except ValueError as error:
            raise StoreError(f"{self.manifest_file} is not JSON ({error}); the run cannot be continued") from error
        if content.get("schema") != SCHEMA:
            raise StoreError(
                f"{self.folder} was written with schema {content.get('schema')}, this version reads {SCHEMA}; "
                "use the version of amnestic named in its manifest, or start another run"
            )
        return content

    def _require_same(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        shown = different(before, now)
        if shown:
            raise StoreError(f"{self.folder} was made with other settings ({shown}); give another --out")

    def event(self, kind: str, **data: Any) -> None:  # noqa: ANN401 - any plain data
        """Append one line to the log of the run."""
        line = json.dumps({"utc": datetime.now(UTC).isoformat(timespec="seconds"), "event": kind, **plain(data)})
        with (self.folder / "events.jsonl").open("a") as log:
            log.write(line + "\n")

    def image_file(self, unit: Unit) -> Path:
        """Where the image of a unit belongs.

        Raises:
            InputError: If the prompt's id is not safe as a folder name.
        """
        if not SAFE_ID.fullmatch(unit.prompt_id):
            raise InputError(f"prompt id {unit.prompt_id!r} must be letters, digits, dot, dash or underscore")
        return self.folder / "images" / unit.prompt_id / f"{unit.seed}.png"

    def latent_file(self, unit: Unit) -> Path:
        """Where the final latent of a unit belongs."""
        return self.image_file(unit).with_suffix(".safetensors")

    def kept_file(self, unit: Unit) -> Path:
        """What was kept of a unit: its image, else its latent."""
        image, latent = self.image_file(unit), self.latent_file(unit)
        return latent if latent.exists() and not image.exists() else image

    def missing(self, units: Iterable[Unit], keep: Keep = Keep.IMAGES) -> list[Unit]:
        """Those of the units that lack a file which is to be kept, in order."""
        return [u for u in units if not all(file.exists() for file in self._files_of(u, keep))]

    def _files_of(self, unit: Unit, keep: Keep) -> tuple[Path, ...]:
        image, latent = self.image_file(unit), self.latent_file(unit)
        return {Keep.IMAGES: (image,), Keep.LATENTS: (latent,), Keep.BOTH: (image, latent)}[keep]

    def claim(self, units: Iterable[Unit], keep: Keep = Keep.IMAGES) -> None:
        """Announce that the files which these units lack are about to be written, by this process or another."""
        lacking = (file for unit in units for file in self._files_of(unit, keep) if not file.exists())
        self.written |= {file.relative_to(self.folder).as_posix() for file in lacking}

    def count(self) -> int:
        """How many images there are, whatever was kept of them."""
        kept = (f for f in (self.folder / "images").glob("*/*") if f.suffix in (".png", ".safetensors"))
        return len({f.with_suffix("") for f in kept if not f.name.startswith(".")})

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows as `name.parquet`, atomically."""
        import pyarrow as pa
        from pyarrow import parquet

        path = self.folder / f"{name}.parquet"
        partial = path.with_name(f".{path.name}.partial")
        parquet.write_table(pa.Table.from_pylist([dict(r) for r in rows]), partial)
        partial.replace(path)
        self.written.add(path.name)
        return path

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of `name.parquet`, or some of their columns.

        Raises:
            StoreError: If the stage that writes it has not finished.
        """
        from pyarrow import parquet

        path = self.folder / f"{name}.parquet"
        if not path.exists():
            raise StoreError(f"{path} does not exist yet; finish the run by issuing its command again")
        rows: list[dict[str, Any]] = parquet.read_table(
            path, columns=None if columns is None else list(columns)
        ).to_pylist()
        return rows

    def save(self, record: Record) -> Path:
        """Write a record; `record.json` comes last, so its presence means the record is whole."""
        from safetensors.torch import save as to_bytes

        folder = self.folder / "records" / record.id
        self.written |= _record_files(record.id)
        tensors = {k: v.detach().cpu().contiguous() for k, v in record.tensors.items()}
        write_atomically(folder / "tensors.safetensors", to_bytes(tensors))
        write_json(
            folder / "record.json",
            {
                "schema": SCHEMA, "stage": record.stage, "made_by": plain(record.made_by),
                "parents": list(record.parents), "data": plain(record.data),
                "utc": datetime.now(UTC).isoformat(timespec="microseconds"),
            },
        )  # fmt: skip
        return folder

    def load(self, stage: str, made_by: MethodSpec, parents: Sequence[str]) -> Record | None:
        """The record of this stage, method and parents, or `None` when it is not there yet."""
        return self.record(record_id(stage, made_by, parents)) if self.has(stage, made_by, parents) else None

    def has(self, stage: str, made_by: MethodSpec, parents: Sequence[str]) -> bool:
        """Whether the record of this stage, method and parents is there; does not read it."""
        return (self.folder / "records" / record_id(stage, made_by, parents) / "record.json").exists()

    def drop(self, name: str) -> None:
        """Delete a record; nothing happens when there is none of this name."""
        folder = self.folder / "records" / name
        self.written |= _record_files(name)
        (folder / "record.json").unlink(missing_ok=True)  # first, since it says that the record is whole
        shutil.rmtree(folder, ignore_errors=True)

    def records(self, stage: str) -> list[str]:
        """Names of the finished records of a stage, the oldest first; not of one whose name merely begins alike."""
        files = (self.folder / "records").glob(f"{stage}-*/record.json")
        own = [f for f in files if stage_of(f.parent.name) == stage]
        return [f.parent.name for f in sorted(own, key=lambda f: (_written_at(f), f.parent.name))]

    def record(self, name: str) -> Record:
        """A finished record by its name.

        Raises:
            StoreError: If there is none of this name, it was written by another schema, or it cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = self.folder / "records" / name
        if not (folder / "record.json").exists():
            there = ", ".join(self.records(stage_of(name) or name)) or "none"
            raise StoreError(f"expected a finished record of {self.folder}, got {name}; finished ones: {there}")
        try:
            content = json.loads((folder / "record.json").read_text())
            tensors = load_file(folder / "tensors.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise StoreError(f"{folder} is damaged ({error}); delete it and issue its command again") from error
        if content.get("schema") != SCHEMA:
            raise StoreError(
                f"{folder} was written with schema {content.get('schema')}, this version reads {SCHEMA}; delete it "
                "and issue its command again"
            )
        return Record(
            stage=content["stage"], made_by=MethodSpec(**content["made_by"]), parents=tuple(content["parents"]),
            data=content["data"], tensors=tensors,
        )  # fmt: skip


def _written_at(record: Path) -> str:
    """When a record was written, from its text; files that were copied have times of their own."""
    try:
        return str(json.loads(record.read_text()).get("utc", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _record_files(record: str) -> set[str]:
    return {f"records/{record}/{name}" for name in ("record.json", "tensors.safetensors")}


def different(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what two settings differ, in words; empty when in nothing that matters.

    Example:
        >>> different({"seeds": [0, 1], "model": {"digest": "a"}}, {"seeds": [0], "model": {"digest": "a"}})
        'seeds was [0, 1], now [0]'
    """
    old, new = _flat(before), _flat(now)
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if old.get("model.digest") and old.get("model.digest") == new.get("model.digest"):
        elsewhere = ("model.name", "model.config", "model.adapters")  # the same weights, lying or made elsewhere
        changed = [k for k in changed if k not in elsewhere]
    return "; ".join(f"{k} was {_short(old.get(k))}, now {_short(new.get(k))}" for k in changed)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, such as ``model.dtype``."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _short(value: Any) -> str:  # noqa: ANN401 - any plain data
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
