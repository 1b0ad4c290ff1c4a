"""How fast a model's U-Net is: from an audit that has finished, or timed on this device. Never guessed."""

import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from amnestic.core.records import Sampling, Unit
from amnestic.core.store import Run
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team
from amnestic.recipes.method_costs import Rows, drawing_rows
from amnestic.recipes.plan import Plan
from amnestic.stages.inputs import Progress

BACKWARD = 2.0
"""A row back costs about two rows forward; assumed where only forward rows were timed."""
TIMED_STEPS, REPEATS = 4, 2


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Rows per second.

    Attributes:
        forward: Rows forward only.
        both: Rows forward and back.
        origin: Where the numbers are from, a sentence.
    """

    forward: float
    both: float
    origin: str

    def minutes(self, rows: Rows) -> float | None:
        """Minutes that rows take; `None` where their number is not known.

        Formula: ``(forward - backward) / rate_forward + backward / rate_both``, in minutes.
        """
        if rows.forward is None or rows.backward is None:
            return None
        return ((rows.forward - rows.backward) / self.forward + rows.backward / self.both) / 60


def rate_of_audits(plan: Plan) -> Rate | None:
    """The rate of the largest audit of a plan that ran from its start to its end without a break.

    Its seconds include loading the model and scoring, so that steps rather take less.
    """
    found = []
    for step in plan.steps:
        if step.kind.gives == "audit" and step.out is not None and (step.out / "summary.json").is_file():
            run = Run.open(step.out)
            seconds, settings = _seconds(step.out), run.manifest()["settings"]
            images = settings["n_prompts"] * len(settings["seeds"])
            if seconds:
                found.append((drawing_rows(images, Sampling(**settings["sampling"])).forward or 0, seconds, step.name))
    if not found:
        return None
    rows, seconds, name = max(found)
    said = (
        f"minutes: at the rate of step {name}, {rows / seconds:,.1f} rows a second where it ran; a row back as two more"
    )
    return Rate(forward=rows / seconds, both=rows / seconds / (1 + BACKWARD), origin=said)


def _seconds(folder: Path) -> float | None:
    """Seconds from the first start to the end, if nothing interrupted them."""
    try:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        told = [(e["event"], datetime.fromisoformat(e["utc"])) for e in events if e["event"] in ("start", "done")]
    except (OSError, ValueError, KeyError):
        return None
    if [name for name, _ in told[:2]] != ["start", "done"]:
        return None
    return max((told[1][1] - told[0][1]).total_seconds(), 1.0)


def measured_rate(plan: Plan, progress: Progress) -> Rate | None:
    """Draw a few steps of one batch, and go back through one, with the first model that the plan audits.

    Args:
        plan: The plan.
        progress: Told that it is being timed.

    Returns:
        The rate; `None` where the plan audits nothing.
    """
    step = next((s for s in plan.steps if s.kind.gives == "audit"), None)
    if step is None:
        return None
    request = step.request(lambda name: str(plan.step(name).out or name))
    progress("time the model", 0, 1)
    device = team(request.device).device
    target = PipelineTarget.load(
        plan.origin(step), revision=request.revision, variant=request.variant, dtype=request.dtype, device=device,
        allow_pickle=request.allow_pickle,
    )  # fmt: skip
    forward, back = _forward(target, request.sampling, request.batch_size), _both(target)
    progress("time the model", 1, 1)
    return Rate(forward=forward, both=back, origin=(
        f"minutes: timed just now on {device}, {forward:,.1f} rows a second forward, {back:,.1f} forward and back"
    ))  # fmt: skip


def _forward(target: PipelineTarget, how: Sampling, batch: int) -> float:
    units = [Unit("timing", seed) for seed in range(batch)]
    fastest = float("inf")
    for steps in (1, *(min(TIMED_STEPS, how.num_inference_steps),) * REPEATS):  # the first warms up
        started = time.perf_counter()
        with torch.no_grad():
            target.sample(units, [""] * batch, how, stop_after=steps).sum().item()
        seconds = time.perf_counter() - started
        if steps > 1 or how.num_inference_steps == 1:
            fastest = min(fastest, seconds / (drawing_rows(batch, how, steps).forward or 1))
    return 1 / fastest


def _both(target: PipelineTarget, rows: int = 8) -> float:
    """Rows a second forward and back, as attacks on embeddings go."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn((rows, *target.noise_shape()), generator=rng)
    cond = target.encode([""]).expand(rows, -1, -1)
    t = torch.full((rows,), target.train_timesteps // 2, device=cond.device)
    fastest = float("inf")
    for _ in range(1 + REPEATS):
        held = cond.detach().clone().requires_grad_()
        started = time.perf_counter()
        with torch.enable_grad():
            total = target.predict(x.to(cond.device, cond.dtype), t, held).float().square().mean()
            torch.autograd.grad(total, held)[0].sum().item()
        fastest = min(fastest, time.perf_counter() - started)
    return rows / fastest
