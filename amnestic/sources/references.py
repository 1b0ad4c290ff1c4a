"""The reference set: which original pictures there are, in which state, and which work each one shows."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.records import digest
from amnestic.sources.images import ImageProblem, open_image
from amnestic.sources.prompts import stays_inside

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_TILE = 1024


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


def cluster_works(
    embeddings: Float[Tensor, "R D"], names: Sequence[str], *, threshold: float, declared: Mapping[str, str]
) -> dict[str, str]:
    """Group pictures that show the same work.

    Pictures are joined when ``cos(a, b) > threshold`` or when the prompt list declares the same work for both; a work
    is a connected component of these joins (single linkage). Pictures that are declared to show different works are
    never joined, however alike: what is linked to several of them, directly or by a chain, goes where the chain is
    shortest, and among those to the work of the picture most like it (the first in alphabetical order of equals).

    The work is the unit of every statistic: several files of one original are memorized together and copied together,
    so counting each of them as a trial would make intervals too narrow, and a work on both sides of a split would leak.
    Single linkage errs towards fewer, larger works: a chain of pairs can join two pictures that are not alike.

    Args:
        embeddings: One descriptor per picture, R pictures, D descriptor width; need not be normalised. A zero
            vector is like nothing.
        names: R distinct reference ids.
        threshold: Cosine similarity in [-1, 1], on the scale of the descriptor.
        declared: Reference id to work id where the prompt list names one; ids not among `names` are ignored.

    Returns:
        Work id per name: the declared one; otherwise the file stem of the first member, spelled out as its path where
        another work already has that name. The same whatever the order of the input.

    Raises:
        InputError: If lengths differ, a name occurs twice, the threshold is out of range, or a declared work is
            named like a picture of another work.
        NotFinite: If a descriptor holds NaN or infinity.

    Example:
        >>> import torch
        >>> two = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
        >>> cluster_works(two, ["a.png", "b.png", "c.png"], threshold=0.9, declared={})
        {'a.png': 'a', 'b.png': 'b', 'c.png': 'a'}
    """
    _require_clusterable(embeddings, names, threshold)
    order = sorted(range(len(names)), key=names.__getitem__)
    ordered = [names[i] for i in order]
    # Sorted before comparing, so that rounding cannot depend on the order of the input either.
    unit = torch.nn.functional.normalize(embeddings.detach().cpu()[order].double(), dim=1)
    labels = _grow_declared(unit, _declared_labels(ordered, declared), threshold)
    left = np.flatnonzero(labels < 0)
    labels[left] = left[_join_similar(unit[torch.from_numpy(left)], threshold)]
    members: dict[int, list[str]] = {}
    for name, label in zip(ordered, labels.tolist(), strict=True):
        members.setdefault(label, []).append(name)
    spelled = _work_ids(list(members.values()), declared)
    return {name: spelled[members[label][0]] for name, label in zip(ordered, labels.tolist(), strict=True)}


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
    if not path.is_symlink() and not path.exists():
        return replace(bad, status="missing", reason="named by the prompt list, but no such file; add it")
    if not any(_real(path).is_relative_to(root) for root in roots):
        return replace(bad, reason="a link that leads out of the reference folder; put the picture itself there")
    try:
        height, width = open_image(path).shape[:2]
    except ImageProblem as problem:
        return replace(bad, sha256=_sha256_or_nothing(path), reason=problem.reason)
    return Reference(id=name, path=name, sha256=_sha256(path), width=width, height=height)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_or_nothing(path: Path) -> str:
    """Hash of a file that may be no file, or closed to us."""
    try:
        return _sha256(path) if path.is_file() else ""
    except OSError:
        return ""


def _require_clusterable(embeddings: Tensor, names: Sequence[str], threshold: float) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(names):
        shape = tuple(embeddings.shape)
        raise InputError(f"expected one descriptor per name, got shape {shape} for {len(names)} names; match them")
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise InputError(f"reference {twice!r} is given twice; give every picture once")
    if not -1 <= threshold <= 1:
        raise InputError(f"the threshold for one work must be a cosine in [-1, 1], got {threshold}; correct it")
    if not torch.isfinite(embeddings).all():
        raise NotFinite("a reference descriptor holds NaN or infinity; compute descriptors in float32")


def _merge(labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join pairs; a label is always the smallest index of its group."""
    n = len(labels)
    rows, columns = np.concatenate([left, np.arange(n)]), np.concatenate([right, labels])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    _, groups = connected_components(graph, directed=False)
    _, first = np.unique(groups, return_index=True)
    merged: NDArray[np.int64] = first[groups].astype(np.int64)
    return merged


def _declared_labels(names: list[str], declared: Mapping[str, str]) -> NDArray[np.int64]:
    """For each name the first one of the same declared work, or -1 without a declared work."""
    first: dict[str, int] = {}
    found = [first.setdefault(declared[name], i) if declared.get(name) else -1 for i, name in enumerate(names)]
    return np.array(found, dtype=np.int64)


def _grow_declared(unit: Tensor, labels: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Let declared works take in what is like them, then what is like that, until nothing more is."""
    labels, front = labels.copy(), np.flatnonzero(labels >= 0)
    while len(front):
        left = np.flatnonzero(labels < 0)
        score, best = _most_similar(unit[torch.from_numpy(left)], unit[torch.from_numpy(front)])
        joined = score > threshold
        labels[left[joined]] = labels[front[best[joined]]]
        front = left[joined]
    return labels


def _most_similar(rows: Tensor, others: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each row the highest cosine with the others, and the first that has it; a tile at a time."""
    score, best = np.full(len(rows), -np.inf), np.zeros(len(rows), dtype=np.int64)
    for top in range(0, len(rows), _TILE):
        part = slice(top, top + _TILE)
        for start in range(0, len(others), _TILE):
            cosine = (rows[part] @ others[start : start + _TILE].T).clamp(max=1.0).numpy()
            # Rounded, because equal vectors at different places of a matrix product may differ in the last bit.
            column = cosine.round(12).argmax(axis=1)
            found = np.take_along_axis(cosine, column[:, None], axis=1)[:, 0]
            higher = found.round(12) > score[part].round(12)
            score[part][higher], best[part][higher] = found[higher], start + column[higher]
    return score, best


def _join_similar(unit: Tensor, threshold: float) -> NDArray[np.int64]:
    """Join pairs above the threshold, one tile of the similarity matrix at a time to bound memory."""
    labels = np.arange(len(unit))
    for top in range(0, len(unit), _TILE):
        for left in range(top, len(unit), _TILE):
            # Clamped, because rounding can push the cosine of equal vectors past 1.
            cosine = (unit[top : top + _TILE] @ unit[left : left + _TILE].T).clamp(max=1.0)
            rows, columns = (index.numpy() for index in torch.nonzero(cosine > threshold, as_tuple=True))
            joins = rows + top != columns + left
            if joins.any():
                labels = _merge(labels, rows[joins] + top, columns[joins] + left)
    return labels


def _work_ids(groups: Iterable[list[str]], declared: Mapping[str, str]) -> dict[str, str]:
    """Distinct work id for each group, keyed by the group's first member; no group takes a declared name by chance."""
    named = {group[0]: next((declared[m] for m in group if declared.get(m)), "") for group in groups}
    found = {first: work for first, work in named.items() if work}
    left = [first for first, work in named.items() if not work]
    spellings: tuple[Callable[[str], str], ...] = (
        lambda name: PurePosixPath(name).stem,
        lambda name: PurePosixPath(name).with_suffix("").as_posix(),
        lambda name: name,
    )
    for spell in spellings:
        count, taken = Counter(spell(first) for first in left), {*found.values(), *declared.values()}
        fresh = {first: spell(first) for first in left if count[spell(first)] == 1 and spell(first) not in taken}
        found |= fresh
        left = [first for first in left if first not in fresh]
    if left:
        raise InputError(f"the prompt list names a work {left[0]!r}, which is also the path of a picture; rename it")
    return found
