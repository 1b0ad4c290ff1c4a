"""One training loop for every network of the testbed: exact resume, an average of the weights.

Randomness of step `k` comes from a generator seeded with (seed, name, k), so a run that was killed
and resumed draws what an uninterrupted one would have drawn.
"""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amnestic.core.seeds import generator

Report = Callable[[str, int, int, float], None]
"""Called with phase name, steps done, steps in all, and the running loss."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast one network is trained.

    Attributes:
        steps: Optimiser steps.
        batch: Images of one step.
        lr: Highest learning rate; reached after `warmup` steps, held, and brought to zero on a
            cosine over the last `fall` share of the steps.
        ema: Decay of the average of the weights that is kept; 0 keeps the last weights.
        fall: Share of the steps over which the learning rate falls.
        warmup: Steps of linear warm-up.
        muon: Highest learning rate of Muon for matrices and kernels; the rest is left to AdamW. 0 leaves
            everything to AdamW. Both rise and fall together.
    """

    steps: int
    batch: int
    lr: float
    ema: float = 0.0
    fall: float = 0.4
    warmup: int = 50
    muon: float = 0.0

    def share(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0, as a share of the highest."""
        left = (self.steps - step) / max(1.0, self.steps * self.fall)
        falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, left))
        return min(1.0, (step + 1) / self.warmup) * falling


class Training:
    """The state of one network's training, saved so that it can be taken up again."""

    def __init__(self, module: nn.Module, schedule: Schedule, *, name: str, seed: int, folder: Path) -> None:
        """Prepare to train `module` in place; checkpoints go to `folder/name.safetensors`."""
        self._module, self._schedule, self._name, self._seed = module, schedule, name, seed
        self._file = folder / f"{name}.safetensors"
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._optimisers = optimisers(module, schedule)
        self._average = deepcopy(module.state_dict()) if schedule.ema else None
        self._done = 0

    def run(self, loss: Callable[[torch.Generator], Tensor], report: Report, *, save_every_s: float = 120.0) -> None:
        """Train to the end of the schedule, from wherever the last checkpoint stands.

        An exception saves nothing, for it may come from half a step: what follows the last checkpoint is done again.

        Args:
            loss: Scalar loss of a fresh batch drawn with the given generator.
            report: Told about progress a few times a minute.
            save_every_s: Seconds between checkpoints.
        """
        self.resume()
        self._module.train()
        saved, told, running = time.monotonic(), 0.0, float("nan")
        while self._done < self._schedule.steps:
            value = self._step(loss)
            running = value if math.isnan(running) else 0.98 * running + 0.02 * value
            now = time.monotonic()
            if now - saved > save_every_s:
                self._save()
                saved = now
            if now - told > 5:
                report(self._name, self._done, self._schedule.steps, running)
                told = now
        if not math.isnan(running):
            self._save()
        report(self._name, self._done, self._schedule.steps, running)
        if self._average is not None:
            self._module.load_state_dict(self._average)
        self._module.eval()

    def _step(self, loss: Callable[[torch.Generator], Tensor]) -> float:
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * self._schedule.share(self._done)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(generator(self._seed, self._name, str(self._done)))
        value.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        self._module.zero_grad()
        self._done += 1
        self._update_average()
        return float(value.detach())

    @torch.no_grad()
    def _update_average(self) -> None:
        if self._average is None:
            return
        decay = min(self._schedule.ema, (1 + self._done) / (10 + self._done))
        live = self._module.state_dict()
        floating = [k for k, v in live.items() if v.is_floating_point()]
        torch._foreach_lerp_([self._average[k] for k in floating], [live[k] for k in floating], 1 - decay)
        for key in live.keys() - set(floating):
            self._average[key] = live[key].clone()

    def _save(self) -> None:
        tensors = {f"live.{k}": v for k, v in self._module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in (self._average or {}).items()}
        for place, optimiser in enumerate(self._optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{place}.{index}.{k}": v for k, v in state.items()}
        tensors["done"] = torch.tensor(self._done)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, partial)
        partial.replace(self._file)

    def resume(self) -> int:
        """Take up the last checkpoint if there is one; returns the steps already done."""
        if self._done or not self._file.exists():
            return self._done
        tensors = load_file(self._file)
        self._done = int(tensors.pop("done"))
        self._module.load_state_dict(_under("live.", tensors))
        if self._average is not None:
            self._average = _under("average.", tensors)
        for place, optimiser in enumerate(self._optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(f"optimiser.{place}.", tensors).items():
                index, name = key.split(".", 1)
                state.setdefault(int(index), {})[name] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": state, "param_groups": groups})
        return self._done


class MatrixMuon(torch.optim.Muon):
    """torch's Muon, which takes matrices only, for kernels as well: a kernel is a matrix with a row per output.

    Source:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scaled to AdamW's step size
        as in Liu et al., "Muon is Scalable for LLM Training", 2025.
    """

    def __init__(self, weights: Sequence[nn.Parameter], *, lr: float) -> None:
        """Train `weights`, of two or more dimensions each, in place."""
        self._weights = list(weights)
        matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in weights]
        super().__init__(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every weight that has a gradient."""
        for matrix, weight in zip(self.param_groups[0]["params"], self._weights, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        super().step()  # type: ignore[no-untyped-call]


def optimisers(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for matrices and kernels between the first and the last layer, AdamW for the rest.

    Why Muon: ``docs/adr/0006-latents-of-principal-components.md``.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    edges = ("conv_in.weight", "conv_out.weight")
    inner = [n for n, p in trained.items() if schedule.muon and p.ndim > 1 and n not in edges]
    rest = [p for name, p in trained.items() if name not in set(inner)]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=schedule.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ]
    if inner:
        chosen.append(MatrixMuon([trained[name] for name in inner], lr=schedule.muon))
    for optimiser in chosen:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return chosen


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
