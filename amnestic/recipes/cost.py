"""What a recipe would cost: rows through the U-Net, step by step, and minutes where a rate was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from amnestic.audit.generate import plan as batches_of
from amnestic.core.attacks import Attack
from amnestic.core.finetuning import FineTuning
from amnestic.core.methods import Localizer
from amnestic.core.registry import build
from amnestic.core.store import Run
from amnestic.recipes.method_costs import (
    AT_LEAST,
    AT_MOST,
    NONE,
    UNKNOWN,
    Rows,
    attack_rows,
    drawing_rows,
    finetune_rows,
    locate_rows,
    starts_elsewhere,
)
from amnestic.recipes.plan import Plan, Step
from amnestic.recipes.rates import Rate, measured_rate, rate_of_audits
from amnestic.recipes.runner import Notes
from amnestic.recipes.works import Audited, audited, prompts_of
from amnestic.stages.attack_bench import STOP_SEEDS
from amnestic.stages.attacking import EARLY
from amnestic.stages.inputs import Progress, silent

DONE, BEGUN, TO_DO = "finished", "begun", "to do"


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a step would cost.

    Attributes:
        step: The step.
        state: ``finished``, ``begun`` or ``to do``.
        forward: Rows through the U-Net; `None`: not known.
        backward: Those through which a gradient flows back.
        bound: What the numbers are, as in `Rows`.
        minutes: How long they take; `None`: not known.
    """

    step: Step
    state: str
    forward: int | None
    backward: int | None
    bound: str
    minutes: float | None


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a plan would cost.

    Attributes:
        steps: Step by step.
        notes: Their sum, where minutes are from, and what the numbers leave out; sentences.
    """

    steps: tuple[StepCost, ...]
    notes: tuple[str, ...]


def costs_of(plan: Plan, *, timed: bool = False, progress: Progress = silent) -> Costs:
    """Rows and minutes of every step that has not finished; nothing is run.

    Formulas: `drawing_rows` for audits, `locate_rows`, `attack_rows`, `finetune_rows`; steps that only read images and
    records cost no rows. Works that replicate are known once an audit has finished; before, all of them may.

    Args:
        plan: The plan.
        timed: Whether the model is timed on this device first; else the rate of a finished audit among the results is
            taken, and without one no minutes are told.
        progress: Told that the model is being timed.
    """
    notes = Notes.read(plan.out)
    rate = measured_rate(plan, progress) if timed else rate_of_audits(plan)
    found = []
    for step in plan.steps:
        state = DONE if notes.finished(step) else BEGUN if step.out is not None and step.out.exists() else TO_DO
        rows = NONE if state == DONE else rows_of(plan, step, notes)
        found.append((step, state, rows))
    return Costs(
        steps=tuple(
            StepCost(step=step, state=state, forward=rows.forward, backward=rows.backward, bound=rows.bound,
                     minutes=rate.minutes(rows) if rate else None)
            for step, state, rows in found
        ),
        notes=_notes([rows for _, _, rows in found], rate),
    )  # fmt: skip


def _notes(rows: list[Rows], rate: Rate | None) -> tuple[str, ...]:
    known = reduce(add, [one for one in rows if one.forward is not None], NONE)
    unknown = sum(one.forward is None for one in rows)
    left = f", and {unknown} steps of which that is not known" if unknown else ""
    minutes = rate.minutes(known) if rate else None
    took = "" if minutes is None else f", {minutes:.1f} minutes"
    return (
        f"together: {known.bound} {known.forward:,} rows forward, {known.backward:,} of them back{took}{left}".replace(
            ":  ", ": "
        ),
        "minutes: not known; add --time to time the model on this device" if rate is None else rate.origin,
        "minutes count the U-Net alone, not the time to encode, decode and score images",
    )


def rows_of(plan: Plan, step: Step, notes: Notes) -> Rows:
    """Rows that a step has still to compute.

    Args:
        plan: The plan.
        step: One of its steps.
        notes: What has finished.
    """
    known: Mapping[str, Callable[[Plan, Step, Notes], Rows]] = {
        "audit": _audit, "locate": _locate, "attack": _attack, "finetune": _finetune, "locality": _locality,
    }  # fmt: skip
    return known[step.kind.name](plan, step, notes) if step.kind.name in known else NONE


def _asked(plan: Plan, step: Step) -> Any:  # noqa: ANN401 - the kind's own request
    return step.request(lambda name: str(plan.step(name).out or name))


def _audit(plan: Plan, step: Step, notes: Notes) -> Rows:
    """Whole batches of which an image is missing."""
    request, prompts = _asked(plan, step), prompts_of(plan, step)
    batches = batches_of(prompts, range(request.n_seeds), batch_size=request.batch_size)
    if (request.out / "manifest.json").is_file():
        run = Run.open(request.out)
        batches = [batch for batch in batches if run.missing(batch, request.keep)]
    return drawing_rows(sum(map(len, batches)), request.sampling)


def _locate(plan: Plan, step: Step, notes: Notes) -> Rows:
    request, known = _asked(plan, step), audited(plan, step.settings["run"], notes)
    method = build("localizer", request.method, dict(request.options))
    if not isinstance(method, Localizer):
        return UNKNOWN
    memorized, exact = known.memorized(request.selection)
    rows = locate_rows(
        method, memorized=memorized, controls=known.controls(request.selection), seeds=request.n_seeds,
        how=known.sampling,
    )  # fmt: skip
    return rows if exact else rows.bounded(AT_MOST)


def _attack(plan: Plan, step: Step, notes: Notes) -> Rows:
    """Searches of every arm, and images of every kept step."""
    request, known = _asked(plan, step), audited(plan, step.settings["run"], notes)
    method = build("attack", request.method, dict(request.options))
    if not isinstance(method, Attack):
        return UNKNOWN
    works, heldout = known.attacked(request.selection, request.n_controls)
    arms = [(method, works), (method, heldout)]
    if request.random and (chance := method.by_chance()) is not None:
        arms.append((chance, works))
    arms += [(method, works), (method, heldout)] * len(request.radii)
    arms += [(method, works) for other in (request.twin, request.original) if other is not None]
    seeds = known.n_seeds if request.n_seeds is None else request.n_seeds
    total = reduce(add, (_arm(one, n, seeds, request, known) for one, n in arms), NONE)
    return total.bounded(AT_MOST) if request.early_stop else total


def _arm(method: Attack, goals: int, seeds: int, request: Any, known: Audited) -> Rows:  # noqa: ANN401
    kept = len({0, method.steps, *(s for s in request.keep if 0 <= s <= method.steps)})
    looks = sum(step <= method.steps for step in EARLY) * STOP_SEEDS if request.early_stop else 0
    prompts = seeds if starts_elsewhere(method) else 0
    drawn = drawing_rows(goals * (method.tries * (kept * seeds + looks) + prompts), known.sampling)
    return attack_rows(method, known.sampling).times(goals * method.tries) + drawn


def _finetune(plan: Plan, step: Step, notes: Notes) -> Rows:
    request, known = _asked(plan, step), audited(plan, step.settings["run"], notes)
    method = build("finetuning", request.method, dict(request.options))
    attack = build("attack", request.attack, dict(request.attack_options))
    if not isinstance(method, FineTuning) or not isinstance(attack, Attack):
        return UNKNOWN
    works, exact = known.memorized(request.selection)
    rows = finetune_rows(method, attack, works=works, how=known.sampling)
    if method.needs_surrogates:
        rows += drawing_rows(works * request.surrogates.n, known.sampling).bounded(AT_LEAST)
    return rows if exact else rows.bounded(AT_MOST)


def _locality(plan: Plan, step: Step, notes: Notes) -> Rows:
    """The searches from many starts; masks and rounds of pruning come on top of that."""
    request, known = _asked(plan, step), audited(plan, step.settings["run"], notes)
    method = build("attack", "dori", dict(request.attack))
    if not isinstance(method, Attack):
        return UNKNOWN
    works = min(request.works, known.memorized(request.selection)[0])
    heldout = min(works, known.attacked(request.selection, None)[1])
    searches = (works + heldout) * request.starts
    drawn = drawing_rows(searches * 2 * request.n_seeds, known.sampling)
    return (attack_rows(method, known.sampling).times(searches) + drawn).bounded(AT_LEAST)
