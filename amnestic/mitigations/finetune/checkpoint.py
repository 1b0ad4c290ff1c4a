"""What training is taken up from: one safetensors file, replaced as a whole."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from amnestic.core.counted import Cost
from amnestic.core.errors import StoreError
from amnestic.core.records import SCHEMA, plain

FILE = "training.safetensors"
Nested = Mapping[str, Mapping[str, Tensor]]


@dataclass(kw_only=True)
class State:
    """Everything about a training but the weights and the optimiser.

    Attributes:
        done: Steps taken.
        curves: By name, a value per step taken.
        watched: What `watch` told, with its step.
        kept: What the method keeps, by name.
        average: Average of the weights by path, or empty.
        cost: Rows that passed through U-Nets, by what for.
        seconds: Time that training took.
        scaler: State of the loss scaler in fp16.
    """

    done: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    watched: list[dict[str, float]] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    cost: dict[str, Cost] = field(default_factory=dict)
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, identity: str, state: State, weights: Mapping[str, Tensor], moments: Nested) -> None:
    """Write a checkpoint, atomically.

    Args:
        folder: Where it lies; made when it is not there.
        identity: Of the training; another is refused when it is read.
        state: How far it is.
        weights: What learns, by path.
        moments: State of the optimiser by path.
    """
    groups: dict[str, Mapping[str, Tensor]] = {
        "weight": weights, "average": state.average, "kept": state.kept,
        "moment": {f"{path}:{k}": v for path, some in moments.items() for k, v in some.items()},
        "curve": {name: torch.tensor(v, dtype=torch.float64) for name, v in state.curves.items()},
    }  # fmt: skip
    tensors = {
        f"{group}:{name}": value.detach().cpu().contiguous().clone()
        for group, some in groups.items() for name, value in some.items()
    }  # fmt: skip
    about = {
        "schema": SCHEMA, "identity": identity, "done": state.done, "watched": state.watched,
        "cost": plain(state.cost), "seconds": state.seconds, "scaler": state.scaler,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{FILE}.{os.getpid()}.partial"
    save_file(tensors, partial, metadata={"amnestic": json.dumps(about)})
    partial.replace(folder / FILE)


def load(folder: Path, identity: str) -> tuple[State, dict[str, Tensor], dict[str, dict[str, Tensor]]] | None:
    """State, weights and moments of a checkpoint; `None` when there is none.

    Raises:
        StoreError: If it is damaged, or belongs to another training.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get("amnestic", "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}); delete it to train again from the start") from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or about.get("identity") != identity:
        raise StoreError(f"{file} belongs to another training; delete it, or keep checkpoints in another folder")
    moments: dict[str, dict[str, Tensor]] = {}
    for key, value in _under("moment:", tensors).items():
        path, name = key.rsplit(":", 1)
        moments.setdefault(path, {})[name] = value
    state = State(
        done=about["done"], watched=about["watched"], seconds=about["seconds"], scaler=about["scaler"],
        curves={name: value.tolist() for name, value in _under("curve:", tensors).items()},
        kept=_under("kept:", tensors), average=_under("average:", tensors),
        cost={name: Cost(**rows) for name, rows in about["cost"].items()},
    )  # fmt: skip
    return state, _under("weight:", tensors), moments


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
