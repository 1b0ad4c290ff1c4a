"""One training loop for every way of fine-tuning: exact resume, several processes, the model itself untouched."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from amnestic.core.counted import Cost, Counted
from amnestic.core.errors import NotFinite
from amnestic.core.finetuning import FineTuning, Lesson, Trainee
from amnestic.core.records import digest
from amnestic.mitigations.finetune import checkpoint
from amnestic.mitigations.finetune.gradients import Gradients
from amnestic.model.target import PipelineTarget
from amnestic.model.trainee import TrainedCopy
from amnestic.parallel import Team

Watch = Callable[[int, PipelineTarget], Mapping[str, float]]
"""Told how many steps were taken and the model as it would be saved now; tells what it measured."""

Report = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the loss of the last one."""

LEAST_SCALE = 2.0**-14


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A model after fine-tuning.

    Attributes:
        model: The model, merged, in the precision of the one before.
        steps: Steps taken.
        curves: By name, a value per step: ``loss.TERM``, ``loss`` and ``gradient`` (its length before it is shortened).
        watched: What `watch` told, each with its ``step``.
        cost: Rows that passed through U-Nets: ``outer`` (the model that learns), ``frozen`` (the model before) and
            ``inner`` (searches against the current weights).
        seconds: Time that training took, over all processes at once.
    """

    model: PipelineTarget = field(repr=False)
    steps: int
    curves: Mapping[str, tuple[float, ...]] = field(repr=False)
    watched: tuple[Mapping[str, float], ...] = ()
    cost: Mapping[str, Cost] = field(default_factory=dict)
    seconds: float = 0.0


def _nobody(_done: int, _total: int, _loss: float) -> None:
    """Progress for nobody."""


def finetune(
    method: FineTuning, target: PipelineTarget, lesson: Lesson, *, work: Path, crew: Team | None = None,
    watch: Watch | None = None, watch_at: Sequence[int] = (), report: Report = _nobody, save_every_s: float = 300.0,
) -> Tuned:  # fmt: skip
    """Teach a copy of a model a lesson, from wherever the last checkpoint stands.

    Args:
        method: What is minimised, and how.
        target: The model; unchanged afterwards.
        lesson: What to forget and to keep.
        work: Folder of the checkpoint, outside every model folder; all processes must see it.
        crew: Processes that share the rows of each step; default this one alone.
        watch: Measures the model on the way, such as by fresh attacks; by the main process only. Never used to learn.
        watch_at: Steps after which `watch` is asked; 0 is before the first.
        report: Told how far it is, by the main process.
        save_every_s: Seconds between checkpoints.

    Returns:
        The model that has learned. On one process it is the same bit for bit, however often it was interrupted.

    Raises:
        InputError: If the lesson lacks something.
        NotFinite: If a loss or gradient is NaN or infinite; the last checkpoint stays.
        StoreError: If `work` holds the checkpoint of another training.
    """
    method.require_fit(target, lesson)
    training = _Training(method, target, lesson, work, crew or Team(device=target.device))
    training.resume()
    training.run(watch, frozenset(watch_at), report, save_every_s)
    return training.result()


class _Training:
    """A copy that learns, its optimiser, and how far they are."""

    def __init__(self, method: FineTuning, target: PipelineTarget, lesson: Lesson, work: Path, crew: Team) -> None:
        self.method, self.target, self.lesson, self.work, self.crew = method, target, lesson, work, crew
        self.copy = TrainedCopy.of(
            target, parameters=method.parameters, lora_rank=method.lora_rank, lora_layers=method.lora_layers,
            precision=method.precision, checkpointing=method.checkpointing, seed=method.seed,
        )  # fmt: skip
        self.weights = list(self.copy.trained.values())
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=method.learning_rate, weight_decay=method.weight_decay, foreach=False
        )
        self.scaler = torch.amp.GradScaler(target.device.type, enabled=method.precision == "fp16")
        self.scaler.scale(torch.ones((), device=target.device))  # it makes its scale at the first use
        self.total, self.state = method.total_steps(lesson), checkpoint.State()
        self.identity = digest(method.spec(), target.ident.digest, target.ident.dtype, lesson.digest())
        self.masks: dict[int, Tensor] | None = None
        if method.ema:
            self.state.average = {path: w.detach().clone() for path, w in self.copy.trained.items()}

    def resume(self) -> None:
        found = checkpoint.load(self.work, self.identity)
        if found is None:
            return
        state, weights, moments = found
        device = self.copy.device
        with torch.no_grad():
            for path, weight in self.copy.trained.items():
                weight.copy_(weights[path])
        places = {path: i for i, path in enumerate(self.copy.trained)}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": {places[p]: m for p, m in moments.items()}, "param_groups": groups})
        state.average = {path: value.to(device) for path, value in state.average.items()}
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.state = state

    def run(self, watch: Watch | None, watch_at: frozenset[int], report: Report, save_every_s: float) -> None:
        saved = started = time.monotonic()
        before = self.state.seconds
        self._watch(watch, watch_at)
        while self.state.done < self.total:
            loss = self._step()
            self.state.seconds = before + time.monotonic() - started
            watched = self._watch(watch, watch_at)
            if watched or time.monotonic() - saved >= save_every_s or self.state.done == self.total:
                self._save()
                saved = time.monotonic()
            if self.crew.is_main:
                report(self.state.done, self.total, loss)
        self.crew.wait()

    def result(self) -> Tuned:
        return Tuned(
            model=self.copy.learned(self.state.average or None), steps=self.state.done,
            curves={name: tuple(values) for name, values in self.state.curves.items()},
            watched=tuple(self.state.watched), cost=dict(self.state.cost), seconds=self.state.seconds,
        )  # fmt: skip

    def _step(self) -> float:
        self._refresh()
        gradients = Gradients(weights=self.weights, method=self.method, scale=float(self.scaler.get_scale()))
        trainee, frozen = Counted(self.copy), Counted(self.target)
        for part in self.crew.share(self.method.parts(self.state.done, self.crew.size)):
            if part.forget or part.retain:
                gradients.add(
                    self.method.losses(cast(Trainee, trainee), frozen, self.lesson, part, self.state.kept), part
                )
        gradients.across(self.crew)
        self._spend({"outer": trainee.cost, "frozen": frozen.cost})
        loss = math.fsum(gradients.values.values())
        self._require_finite(loss)
        if self.masks is None:
            self.masks = self._masks()
        gradients.hand_over(self.masks)
        length = self._move()
        self._note({f"loss.{name}": value for name, value in gradients.values.items()})
        self._note({"loss": loss, "gradient": length})
        self.state.done += 1
        self._average()
        return loss

    def _refresh(self) -> None:
        """Let the method search against the current weights; processes share the goals, and all get everything."""
        stale = self.method.stale(self.state.done, self.lesson)
        if not stale:
            return
        trainee, frozen, mine = Counted(self.copy), Counted(self.target), self.crew.share(stale)
        made: Mapping[str, Tensor] = {}
        if mine:
            made = self.method.refresh(
                self.state.done, cast(Trainee, trainee), frozen, self.lesson, mine, self.state.kept
            )
        for one in self.crew.gathered({name: value.detach().cpu() for name, value in made.items()}):
            self.state.kept |= one
        self._spend({"inner": trainee.cost, "frozen": frozen.cost})

    def _move(self) -> float:
        """One step of the optimiser; entries that may not move stay, whatever the optimiser does to them."""
        method, masks = self.method, self.masks or {}
        self.scaler.unscale_(self.optimizer)
        bound = method.max_grad_norm or math.inf
        length = float(torch.nn.utils.clip_grad_norm_(self.weights, bound))
        if not math.isfinite(length) and (method.precision != "fp16" or self.scaler.get_scale() < LEAST_SCALE):
            self._require_finite(length)
        still = {place: self.weights[place].detach().clone() for place in masks}
        for group in self.optimizer.param_groups:
            group["lr"] = method.rate_at(self.state.done, self.total)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for place, before in still.items():
                self.weights[place].copy_(torch.where(masks[place].bool(), self.weights[place], before))
        self.optimizer.zero_grad()
        return length

    def _masks(self) -> dict[int, Tensor]:
        places = {path: i for i, path in enumerate(self.copy.trained)}
        found = self.method.movable(self.state.kept)
        return {places[path]: mask.to(self.copy.device) for path, mask in found.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """An average that trusts early steps less, as they differ more."""
        done = self.state.done
        decay = min(self.method.ema, (1 + done) / (10 + done))
        for path, mean in self.state.average.items():
            mean.lerp_(self.copy.trained[path].detach(), 1 - decay)

    def _spend(self, costs: Mapping[str, Cost]) -> None:
        for one in self.crew.gathered(dict(costs)):
            for name, cost in one.items():
                there = self.state.cost.get(name, Cost())
                self.state.cost[name] = replace(
                    there, forward=there.forward + cost.forward, backward=there.backward + cost.backward
                )

    def _note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            curve = self.state.curves.setdefault(name, [])
            curve.extend([math.nan] * (self.state.done - len(curve)))
            curve.append(value)

    def _watch(self, watch: Watch | None, watch_at: frozenset[int]) -> bool:
        done = self.state.done
        if watch is None or done not in watch_at or any(one["step"] == done for one in self.state.watched):
            return False
        told = self.crew.on_main(lambda: dict(watch(done, self.copy.learned(self.state.average or None))))
        self.state.watched.append({"step": done} | (self.crew.gathered(told)[0] or {}))
        return True

    def _save(self) -> None:
        if not self.crew.is_main:
            return
        self.state.scaler = self.scaler.state_dict()
        kept = self.optimizer.state_dict()["state"]
        moments = {path: kept[i] for i, path in enumerate(self.copy.trained) if i in kept}
        checkpoint.save(self.work, self.identity, self.state, self.copy.trained, moments)

    def _require_finite(self, value: float) -> None:
        if math.isfinite(value):
            return
        kept = ""
        with suppress(OSError):
            kept = f"; the last checkpoint in {self.work} stays" if (self.work / checkpoint.FILE).exists() else ""
        raise NotFinite(
            f"{self.method.spec().name} came to NaN or infinity in step {self.state.done + 1} of {self.total}; use a "
            f"smaller learning_rate, a longer warmup, or precision=no{kept}"
        )
