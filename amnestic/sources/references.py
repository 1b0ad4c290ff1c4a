"""The reference set: which original pictures there are, and in which state."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amnestic.core.errors import InputError
from amnestic.core.records import digest
from amnestic.sources.images import ImageProblem, open_image
from amnestic.sources.packed import is_packed, packed_bytes
from amnestic.sources.prompts import stays_inside

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One original picture.

    Attributes:
        id: Path relative to the reference folder, with forward slashes.
        path: The same path as the file system spells it.
        sha256: Hash of the file, or empty when it was not read.
        width: Pixels after EXIF rotation, 0 when unusable.
        height: Pixels after EXIF rotation, 0 when unusable.
        status: ``ok``, ``unreadable`` (also when it is readable, but of a size that cannot be compared) or ``missing``.
        reason: Why it is not ``ok``, or empty.
        work: Which work it shows; empty until clustered.
    """

    id: str
    path: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    status: str = "ok"
    reason: str = ""
    work: str = ""


@dataclass(frozen=True, kw_only=True)
class ReferenceSet:
    """A folder of originals, including those that cannot be used.

    Attributes:
        folder: Where they are; no part of the digest.
        references: R references, sorted by id.
    """

    folder: Path
    references: tuple[Reference, ...]

    def usable(self) -> tuple[Reference, ...]:
        """The references that can be compared against."""
        return tuple(r for r in self.references if r.status == "ok")

    def counts(self) -> dict[str, int]:
        """How many references have each status; every status is listed."""
        found = Counter(r.status for r in self.references)
        return {status: found[status] for status in ("ok", "unreadable", "missing")}

    @property
    def digest(self) -> str:
        """SHA-256 over ids, file hashes and statuses: equal sets are equal wherever they lie."""
        return digest([[r.id, r.sha256, r.status] for r in self.references])

    def manifest(self) -> list[dict[str, Any]]:
        """Every reference as plain data, without the folder."""
        return [asdict(r) for r in self.references]

    def without(self, reasons: Mapping[str, str]) -> "ReferenceSet":
        """The same set with some references set aside, counted as unreadable.

        Args:
            reasons: Reference id to why it cannot be used.
        """
        left = (
            replace(r, status="unreadable", reason=reasons[r.id]) if r.id in reasons else r for r in self.references
        )
        return replace(self, references=tuple(left))

    def with_works(self, works: Mapping[str, str]) -> "ReferenceSet":
        """The same set with the work of each reference filled in.

        Args:
            works: Reference id to work id, as `cluster_works` returns it; others stay as they are.
        """
        named = tuple(replace(r, work=works.get(r.id, r.work)) for r in self.references)
        return replace(self, references=named)

    def load(self, reference: Reference) -> NDArray[np.uint8]:
        """Pixels of one reference.

        Args:
            reference: One of the usable ones.

        Returns:
            Array (H, W, 3) of unsigned bytes.

        Raises:
            ImageProblem: If it is not usable.
            InputError: If the file changed since the set was read; read the set again.
        """
        path = self.folder / reference.path
        if reference.status != "ok":
            raise ImageProblem(reference.reason, path)
        pixels = open_image(path)
        if _sha256(path) != reference.sha256:
            raise InputError(f"{path} changed since the references were read; issue the command again")
        return pixels


def reference_id(image: str) -> str:
    """Identity of the reference that a prompt list names: its path in one spelling.

    Args:
        image: Path relative to the reference folder.

    Returns:
        The same path without ``./`` and doubled slashes.

    Example:
        >>> reference_id("./a//b.png")
        'a/b.png'
    """
    return PurePosixPath(image).as_posix()


def read_references(
    folder: Path, *, extra: Sequence[str] = (), leave_out: Sequence[str] = (), only: str | None = None
) -> ReferenceSet:
    """Find, hash and open every picture of a reference folder.

    What cannot be used stays in the set with its reason, so that it is counted and never silently dropped. Links to
    folders are not followed, and a link that leads out of the folder is not read.

    Args:
        folder: The folder, searched with its subfolders, or a single picture.
        extra: Paths relative to the folder that a prompt list names; those not there become ``missing``. Empty
            ones are skipped.
        leave_out: Paths relative to the folder that are no originals, such as masks; `extra` outranks it.
        only: A subfolder to search instead of the whole folder; paths still count from the folder.

    Returns:
        The set, sorted by id.

    Raises:
        InputError: If the folder does not exist, holds no picture, or an extra path leads out of it.
    """
    if not folder.exists():
        raise InputError(f"reference folder {folder} does not exist; give a folder of pictures or one picture")
    base = folder if folder.is_dir() else folder.parent
    found = _walk(folder) if folder.is_dir() else {folder.name}
    named = {_named(path) for path in extra if path}
    out = {reference_id(path) for path in leave_out}
    if only is not None:
        found = {name for name in found if PurePosixPath(name).is_relative_to(only)}
    # The second root lets a single picture be a link: whoever names a file means what it leads to.
    roots = (_real(base), _real(folder))
    references = tuple(_examine(base, roots, name) for name in sorted((found - out) | named))
    if all(r.status == "missing" for r in references):
        known = " ".join(sorted(e.removeprefix(".") for e in EXTENSIONS))
        raise InputError(f"reference folder {folder} holds no picture; put files there that end in one of: {known}")
    return ReferenceSet(folder=base, references=references)


def named_references(folder: Path, names: Sequence[str]) -> ReferenceSet:
    """The pictures that a prompt list names, and no others.

    Paths count from the folder or, as for a list that lies above its references, from the nearest folder above it in
    which one of them exists.

    Args:
        folder: The folder of references.
        names: Paths; those that are not there become ``missing``.

    Returns:
        The set, sorted by id.

    Raises:
        InputError: If the folder does not exist, or a path leads out of it.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder of references, got {folder}; give the one that the audit was given")
    inside = [_named(name) for name in names]
    above = (folder, *folder.resolve().parents)
    base = next((place for place in above if any((place / name).is_file() for name in inside)), folder)
    return ReferenceSet(folder=base, references=tuple(_examine(base, (_real(base),), n) for n in sorted(set(inside))))


def _walk(folder: Path) -> set[str]:
    """Relative paths of all files that are named like pictures, and of links to folders elsewhere."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(parent)
        pictures = [here / f for f in files if Path(f).suffix.lower() in EXTENSIONS]
        links = [here / d for d in folders if (here / d).is_symlink()]
        away = [link for link in links if not _real(link).is_relative_to(_real(folder))]
        found.update(path.relative_to(folder).as_posix() for path in pictures + away)
    return found


def _refuse(error: OSError) -> None:
    raise InputError(f"reference folder {error.filename} cannot be listed ({error.strerror}); check its permissions")


def _named(path: str) -> str:
    if not stays_inside(path):
        raise InputError(f"reference {path!r} must stay inside the reference folder; give a relative path without '..'")
    return reference_id(path)


def _real(path: Path) -> Path:
    """Where a path leads; unlike `Path.resolve` it survives a link to itself."""
    return Path(os.path.realpath(path))


def _examine(folder: Path, roots: Sequence[Path], name: str) -> Reference:
    """Hash and open one file, or say why not."""
    path = folder / name
    spelled = name.encode("utf-8", "backslashreplace").decode()
    bad = Reference(id=spelled, path=spelled, status="unreadable")
    if spelled != name:
        return replace(bad, reason="the file's name is not UTF-8; rename it")
    if not path.is_symlink() and not path.exists() and not is_packed(path):
        return replace(bad, status="missing", reason="named by the prompt list, but no such file; add it")
    if not any(_real(path).is_relative_to(root) for root in roots):
        return replace(bad, reason="a link that leads out of the reference folder; put the picture itself there")
    try:
        height, width = open_image(path).shape[:2]
    except ImageProblem as problem:
        return replace(bad, sha256=_sha256_or_nothing(path), reason=problem.reason)
    return Reference(id=name, path=name, sha256=_sha256(path), width=width, height=height)


def _sha256(path: Path) -> str:
    if is_packed(path):
        return hashlib.sha256(packed_bytes(path)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_or_nothing(path: Path) -> str:
    """Hash of a file that may be no file, or closed to us."""
    try:
        return _sha256(path) if path.is_file() else ""
    except OSError:
        return ""
