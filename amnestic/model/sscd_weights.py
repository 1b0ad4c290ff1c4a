"""Weight files of SSCD: found or fetched, pinned by hash, read without running code."""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from amnestic.core.errors import InputError, NotFinite
from amnestic.core.store import write_atomically

PUBLISHED = "sscd_disc_mixup.torchvision.pt"
PUBLISHED_URL = f"https://dl.fbaipublicfiles.com/sscd-copy-detection/{PUBLISHED}"
MOST_BYTES = 256 * 1024 * 1024
CHUNK = 1024 * 1024
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of a file by torch.save before torch 1.6
REMEDIES = "give --sscd-weights FILE, or install the extra sscd-onnx, or use --descriptor sscd-mini"


def default_cache() -> Path:
    """Folder for downloaded weights: ``AMNESTIC_CACHE``, else ``amnestic`` in the user's cache folder."""
    given = os.environ.get("AMNESTIC_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amnestic"


def is_offline() -> bool:
    """Whether ``AMNESTIC_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    return any(
        os.environ.get(n, "").lower() in {"1", "true", "yes", "on"} for n in ("AMNESTIC_OFFLINE", "HF_HUB_OFFLINE")
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pin_of(path: Path) -> Path:
    """Where the trusted hash of a weight file is written: ``FILE.sha256`` beside it."""
    return path.with_name(f"{path.name}.sha256")


def pinned_digest(path: Path) -> str:
    """SHA-256 of a weight file, after comparing it with ``FILE.sha256`` when that exists.

    Args:
        path: The weight file.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: If the file is missing, or differs from its pin.
    """
    if not path.is_file():
        raise InputError(f"expected a weight file at {path}, found none; check the path")
    digest, pin = file_digest(path), pin_of(path)
    if pin.exists() and (trusted := _read_pin(pin)) != digest:
        raise InputError(
            f"{path} has SHA-256 {digest[:12]}..., but {pin.name} trusts {trusted[:12]}...; "
            f"delete both to fetch the file again, or only {pin.name} if the change is yours"
        )
    return digest


def fetch_published(cache: Path, *, timeout: float = 30.0) -> Path:
    """The published ``sscd_disc_mixup`` weights, downloaded into the cache when they are not there.

    No checksum is published, so the hash of the first download is pinned in ``FILE.sha256`` and
    every later load is compared with it.

    Args:
        cache: Folder for downloads.
        timeout: Longest wait for the network to answer, in seconds.

    Returns:
        Path of the file, which has been read once and is pinned.

    Raises:
        InputError: If the network is forbidden or fails, or what came is not the weights.
    """
    path = cache / PUBLISHED
    if not path.exists():
        if is_offline():
            raise InputError(f"the SSCD weights are not in {cache} and the network is switched off; {REMEDIES}")
        partial = cache / f".{PUBLISHED}.{os.getpid()}.partial"
        try:
            download(PUBLISHED_URL, partial, timeout=timeout)
            read_state(partial)
            _compare_or_pin(partial, pin_of(path))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    elif not pin_of(path).exists():
        _compare_or_pin(path, pin_of(path))
    return path


def download(url: str, target: Path, *, timeout: float = 30.0, most: int = MOST_BYTES) -> None:
    """Download one file over https and nothing else, redirects included.

    Args:
        url: Address; must start with ``https://``.
        target: Where the bytes go; the caller moves it into place.
        timeout: Longest wait for the network to answer, in seconds.
        most: Most bytes accepted.

    Raises:
        InputError: If the address is not https, the network fails, or too much or too little comes.
    """
    if not url.startswith("https://"):
        raise InputError(f"expected an https address, got {url}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with https_opener().open(url, timeout=timeout) as answer, target.open("wb") as out:
            declared = answer.headers.get("Content-Length")
            receive(answer, out, declared=int(declared) if declared else None, most=most, url=url)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise InputError(f"{url} could not be downloaded ({error}); try again, or {REMEDIES}") from error


def https_opener() -> urllib.request.OpenerDirector:
    """An opener without handlers for http, file or ftp, so that no redirect leads there either."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def receive(answer: BinaryIO, out: BinaryIO, *, declared: int | None, most: int, url: str) -> None:
    """Copy an answer's bytes, refusing more than `most` and anything else than what was declared.

    Raises:
        InputError: If the length is wrong.
    """
    n_bytes = 0
    while chunk := answer.read(CHUNK):
        n_bytes += len(chunk)
        if n_bytes > most:
            raise InputError(f"{url} sends more than {most} bytes, which no SSCD file has; {REMEDIES}")
        out.write(chunk)
    if declared is not None and n_bytes != declared:
        raise InputError(f"{url} declared {declared} bytes and sent {n_bytes}; try again, or {REMEDIES}")


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, which holds code."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, without running anything it holds.

    Args:
        path: A ``.safetensors`` file, or a state dict written by `torch.save`.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        InputError: If it is TorchScript, or is not a mapping from names to tensors.
        NotFinite: If a tensor holds NaN or infinity.
    """
    if is_torchscript(path):
        raise InputError(f"{path} is TorchScript, which is code; give the .torchvision.pt file, or --allow-torchscript")
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        elif not zipfile.is_zipfile(path) and not _starts_with(path, LEGACY_START):
            raise UnpicklingError("not written by torch.save")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, LookupError, EOFError, TypeError) as error:
        raise InputError(
            f"{path} holds more than tensors or is damaged; give a state dict such as {PUBLISHED}, or safetensors"
        ) from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is not a mapping from names to tensors; give a state dict such as {PUBLISHED}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NotFinite(f"{path} holds NaN or infinity in {name}; get the file again")
    return dict(state)


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _read_pin(pin: Path) -> str:
    found = re.match(r"[0-9a-f]{64}\b", pin.read_text(errors="replace"))
    if not found:
        raise InputError(f"expected a SHA-256 in {pin}, found something else; delete it to trust the file anew")
    return found.group()


def _compare_or_pin(file: Path, pin: Path) -> None:
    digest = file_digest(file)
    if not pin.exists():
        write_atomically(pin, f"{digest}  {pin.stem}\n# recorded on first trust\n")
    elif _read_pin(pin) != digest:
        raise InputError(
            f"what was downloaded has SHA-256 {digest[:12]}..., not the one in {pin}; "
            "delete that file only if you trust the new one"
        )
