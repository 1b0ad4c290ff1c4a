"""The seal of a run: a checksum of every file that is evidence, and what differs from it.

``SHA256SUMS`` has the format of coreutils, so ``sha256sum -c SHA256SUMS`` works without this package. It covers every
plain file of the run folder but

* itself and its signature,
* names that begin with a dot, among them files that are only half written,
* ``training/``, checkpoints that are gone when training is done,
* folders inside that are a model or a run of their own: a model is known by the digest in the record that made it, a
  run has a seal of its own.

A seal that is renewed keeps the checksum of every file that was sealed before, unless the command that renews it wrote
that file itself; so a file that somebody else changed never becomes right. The log may grow, but what was there must
stay.
"""

import hashlib
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from amnestic.core.errors import StoreError
from amnestic.core.store import write_atomically
from amnestic.core.sums import ordered, read_sums, sums_text

SUMS, SIGNATURE, LOG = "SHA256SUMS", "SHA256SUMS.sig", "events.jsonl"
CHECKPOINTS = "training"
MARKS = ("manifest.json", "model_index.json")
"""A folder inside a run that holds one of these is a run or a model of its own."""


class Kind(StrEnum):
    """How a file differs from what was sealed."""

    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"
    LINK = "no plain file"
    UNREADABLE = "cannot be read"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One file that is not as it was sealed.

    Attributes:
        name: Path inside the run, with slashes.
        kind: How it differs.
    """

    name: str
    kind: Kind

    def __str__(self) -> str:
        """One line for a terminal.

        Example:
            >>> print(Difference(name="a.png", kind=Kind.CHANGED))
            a.png: changed
        """
        return f"{printable(self.name)}: {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in a run folder.

    Attributes:
        files: Plain files that a seal covers.
        others: Links and what else is no plain file.
        left_out: Models and runs inside.
    """

    files: tuple[str, ...]
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A run folder beside its seal.

    Attributes:
        digest: SHA-256 of ``SHA256SUMS``, which stands for the whole run; empty where that is no plain file.
        files: How many files are sealed.
        differences: What is not as it was sealed, by name.
        log_lines: Lines that were added to the log since: a command began and has not finished.
        left_out: Models and runs inside, which are not covered.
    """

    digest: str
    files: int
    differences: tuple[Difference, ...] = ()
    log_lines: int = 0
    left_out: tuple[str, ...] = field(default=())


def printable(name: str) -> str:
    r"""A name on one line of a terminal: it may hold anything, so what cannot be printed is escaped.

    Example:
        >>> printable("a" + chr(27) + "[31m" + chr(10) + "b")
        'a\\x1b[31m\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def listing(folder: Path) -> Listing:
    """What lies in a run folder, sorted as bytes so that no locale changes the order.

    Args:
        folder: The run.
    """
    files, others, left_out = list[str](), list[str](), list[str]()
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder).as_posix()
        own = inside != "." and any(mark in names for mark in MARKS)
        if own:
            left_out.append(inside)
            folders.clear()
            continue
        prefix = "" if inside == "." else f"{inside}/"
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        hidden = {name for name in folders if name.startswith(".") or prefix + name == CHECKPOINTS}
        folders[:] = [name for name in folders if name not in hidden and name not in links]
        for name in (*names, *links):
            if name.startswith(".") or prefix + name in (SUMS, SIGNATURE, CHECKPOINTS):
                continue
            (files if _is_plain(Path(place) / name) else others).append(prefix + name)
    return Listing(files=ordered(files), others=ordered(others), left_out=ordered(left_out))


def seal(folder: Path, written: Collection[str] = ()) -> tuple[Difference, ...]:
    """Write or renew ``SHA256SUMS``.

    Args:
        folder: The run.
        written: Names of files that the calling command wrote or deleted itself; of all others that were sealed before
            the old checksum is kept.

    Returns:
        Sealed files that changed or are gone although the command did not write them, and links, which are not sealed.

    Raises:
        StoreError: If ``SHA256SUMS`` is damaged.
    """
    before, there, sums = sealed(folder), listing(folder), dict[str, str]()
    found = [Difference(name=name, kind=Kind.LINK) for name in there.others]
    for name in there.files:
        sums[name] = now = _checksum(folder / name)
        kept = before.get(name, now)
        if kept != now and name not in written and not (name == LOG and _lines_since(folder, kept) is not None):
            found.append(Difference(name=name, kind=Kind.CHANGED))
            sums[name] = kept
    for name in sorted(before.keys() - sums.keys() - set(written)):
        sums[name] = before[name]
        if name not in there.others:
            found.append(Difference(name=name, kind=Kind.MISSING))
    content = sums_text(sums)
    if not (folder / SUMS).exists() or (folder / SUMS).read_bytes() != content:
        write_atomically(folder / SUMS, content)
    return tuple(sorted(found, key=lambda d: os.fsencode(d.name)))


def check(folder: Path) -> Checked:
    """Compare a run folder with its seal; every file is read.

    Args:
        folder: The run.

    Returns:
        What differs.

    Raises:
        StoreError: If the run was never sealed.
    """
    there = listing(folder)
    plain = not (folder / SUMS).exists() or _is_plain(folder / SUMS)  # a pipe or a device would be read for ever
    digest_now = run_digest(folder) if plain else ""
    sums = read_sums((folder / SUMS).read_bytes()) if plain else None
    if sums is None:
        damaged = Difference(name=SUMS, kind=Kind.CHANGED)
        return Checked(digest=digest_now, files=0, differences=(damaged,), left_out=there.left_out)
    found, lines, files = [Difference(name=name, kind=Kind.LINK) for name in there.others], 0, set(there.files)
    for name in ordered({*sums, *files}):
        kind, grown = _compared(folder, name, sums.get(name), there=name in files)
        lines += grown
        if kind and name not in there.others:
            found.append(Difference(name=name, kind=kind))
    found.sort(key=lambda d: os.fsencode(d.name))
    return Checked(
        digest=digest_now, files=len(sums), differences=tuple(found), log_lines=lines, left_out=there.left_out
    )  # fmt: skip


def sealed(folder: Path) -> dict[str, str]:
    """Checksums of a run by name; empty when it was never sealed.

    Args:
        folder: The run.

    Raises:
        StoreError: If ``SHA256SUMS`` is damaged.
    """
    if not (folder / SUMS).exists():
        return {}
    found = read_sums((folder / SUMS).read_bytes()) if _is_plain(folder / SUMS) else None
    if found is None:
        raise StoreError(
            f"expected {folder / SUMS} as amnestic wrote it, got another content; put the sealed file back, or delete "
            "it to seal what is there now"
        )
    return found


def run_digest(folder: Path) -> str:
    """SHA-256 of ``SHA256SUMS``, as ``sha256sum SHA256SUMS`` prints it: one number for the whole run.

    Args:
        folder: The run.

    Raises:
        StoreError: If the run was never sealed.
    """
    if not (folder / SUMS).exists():
        finished = (folder / "summary.json").exists()
        state = "was never sealed" if finished else "has not finished"
        raise StoreError(f"{folder} {state}; issue its command again, which seals it when it is done")
    return _checksum(folder / SUMS)


def _compared(folder: Path, name: str, kept: str | None, *, there: bool) -> tuple[Kind | None, int]:
    """How a file differs from its checksum, and by how many lines the log grew."""
    if kept is None:
        return Kind.ADDED, 0
    if not there:
        return Kind.MISSING, 0
    try:
        if _checksum(folder / name) == kept:
            return None, 0
    except OSError:
        return Kind.UNREADABLE, 0
    lines = _lines_since(folder, kept) if name == LOG else None
    return (Kind.CHANGED, 0) if lines is None else (None, lines)


def _lines_since(folder: Path, kept: str) -> int | None:
    """Lines of the log after those that were sealed; `None` if these are not there any more."""
    total, since = hashlib.sha256(), None
    with (folder / LOG).open("rb") as log:
        for line in log:
            total.update(line)
            since = 0 if total.hexdigest() == kept else since if since is None else since + 1
    return since


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_plain(file: Path) -> bool:
    return stat.S_ISREG(file.lstat().st_mode)
