"""Can it be brought back? An attack on a finished audit's model, beside its controls."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from amnestic.attacks.dori import Dori
from amnestic.audit.attack_arms import arm_of
from amnestic.audit.attack_goals import KnownImages, known_images
from amnestic.audit.attack_verdict import attack_verdict
from amnestic.audit.selection import Selection
from amnestic.core.attacks import Attack
from amnestic.core.errors import InputError
from amnestic.core.records import Prompt, Sampling, plain
from amnestic.core.registry import build
from amnestic.core.store import Record, Run, write_atomically
from amnestic.model.clip import load_clip
from amnestic.model.target import PipelineTarget
from amnestic.parallel import team
from amnestic.report.attack_page import Attempt, render_attack
from amnestic.stages.attack_bench import STEPS, Bench
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.models import model_of, second_model
from amnestic.stages.originals import goals_of, judged_by, pictures_of
from amnestic.stages.scores import threshold_of
from amnestic.stages.sealing import seal_run

WITHIN = " within "
SHOWN = 24
EARLY = (1, 2, 5, 10, 15, 20, 30, 40)


@dataclass(frozen=True, kw_only=True)
class AttackRequest:
    """Everything a person asks of `attack`.

    Attributes:
        run: Folder of a finished audit of the model that is attacked.
        references: Folder of the originals that the audit's prompts name.
        method: Name of an attack.
        options: Its settings that differ from the default.
        selection: Which works.
        n_controls: Held-out works; default as many as works.
        twin: A model that never saw the works, or the run of its audit; `None`: no such control.
        original: The model before it was edited, as positive control, likewise.
        random: Whether random search with equal passes is run beside a search by gradient.
        radii: Radii of the ball around the starting point, in distances of ordinary prompts, at which a search of
            embeddings is repeated: how small an adjustment is enough?
        early_stop: Whether an independent judge ends the search for a work that is back.
        keep: Steps whose inputs are drawn and scored.
        n_seeds: Images per input that score; default the audit's.
        descriptor: The descriptor that judged the audit, as ``audit`` was told.
        sscd_weights: File of its weights, likewise.
        clip: An open_clip model for attacks through a differentiable descriptor, or `None`.
        clip_pretrained: Its weights.
        show_originals: Show pictures on the page as they are; by default they are blurred, so that it copies no work.
        model: Where the model lies now, if not where the audit found it.
        device, allow_pickle: How models are loaded.
    """

    run: Path
    references: Path
    method: str = "dori"
    options: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    n_controls: int | None = None
    twin: str | None = None
    original: str | None = None
    random: bool = True
    radii: tuple[float, ...] = ()
    early_stop: bool = False
    keep: tuple[int, ...] = STEPS
    n_seeds: int | None = None
    descriptor: str = "auto"
    sscd_weights: Path | None = None
    clip: str | None = None
    clip_pretrained: str | None = None
    show_originals: bool = False
    model: str | None = None
    device: str = "auto"
    allow_pickle: bool = False


def attack(request: AttackRequest, *, progress: Progress = silent) -> Record | None:
    """Attack, and judge what came out beside its controls.

    Args:
        request: What is asked.
        progress: Told how far it is.

    Returns:
        The record of the verdict; `None` in processes other than the main one.

    Raises:
        InputError: If an option cannot be used, an original is missing, or the model is not the audited one.
        StoreError: If the audit has not finished.
    """
    run, crew = Run.open(request.run), team(request.device)
    method = _attack_of(request)
    target = model_of(run, model=request.model, device=request.device, allow_pickle=request.allow_pickle)
    known = known_images(
        run.read_table("samples"), run.read_table("matches"), request.selection, n_controls=request.n_controls
    )  # fmt: skip
    bench, pictures = _bench(run, request, known, target)
    started = time.monotonic()
    arms: dict[str, Record | None] = {}
    for name, model, how, prompts in _arms(request, method, known, target):
        goals = goals_of(model, prompts, pictures)
        arms[name] = bench.arm(model, how, goals, team=crew, progress=progress, name=f"{request.method}: {name}")
    record = crew.on_main(lambda: _judged(run, request, method, arms, time.monotonic() - started))
    if record is not None:
        _write_page(run, record, known, pictures, blurred=not request.show_originals)
        seal_run(run, f"{record.id}.html")
    return record


def _write_page(
    run: Run, record: Record, known: KnownImages, pictures: Mapping[str, Any], *, blurred: bool
) -> None:  # fmt: skip
    """``RECORD.html`` beside the report, with what was drawn before and after for the first works of two arms."""
    attempts, left = [], 0
    prompts = {p.id: p for p in (*known.works, *known.heldout)}
    for name in ("works", "heldout"):
        if name in record.data["arms"]:
            shown = list(_attempts(name, run.record(record.data["arms"][name]), prompts, pictures))
            attempts += shown[:SHOWN]
            left += len(shown[SHOWN:])
    page = render_attack(record.data, plain(record.made_by), attempts, unshown=left, blurred=blurred)
    write_atomically(run.folder / f"{record.id}.html", page)


def _attempts(name: str, arm: Record, prompts: Mapping[str, Prompt], pictures: Mapping[str, Any]) -> Iterator[Attempt]:
    scores, texts = arm.tensors["scores"], arm.data["texts"]
    for place, goal in enumerate(arm.data["goals"]):
        yield Attempt(
            work=arm.data["works"][place], arm=name, prompt=prompts[goal].prompt, original=pictures[goal],
            before=arm.tensors["image_before"][place].numpy(), after=arm.tensors["image_after"][place].numpy(),
            score_before=float(scores[place, 0, 0, 0]), score_after=float(scores[place, 0, -1, 0]),
            text=None if texts is None else texts[0][place],
        )  # fmt: skip


def _arms(
    request: AttackRequest, method: Attack, known: KnownImages, target: PipelineTarget
) -> Iterator[tuple[str, PipelineTarget, Attack, Sequence[Prompt]]]:
    """The attack itself and the controls that can be had; a further model is loaded when its turn comes."""
    yield "works", target, method, known.works
    if known.heldout:
        yield "heldout", target, method, known.heldout
    if request.random and (chance := method.by_chance()) is not None:
        yield "random", target, chance, known.works
    for radius in request.radii:
        bounded = _bounded(method, radius)
        for name, prompts in (("works", known.works), ("heldout", known.heldout)):
            if prompts:
                yield f"{name}{WITHIN}{radius:g}", target, bounded, prompts
    for name, place in (("twin", request.twin), ("original", request.original)):
        if place is not None:
            yield name, second_model(place, target, allow_pickle=request.allow_pickle), method, known.works


def _bounded(method: Attack, radius: float) -> Attack:
    if not isinstance(method, Dori):
        raise InputError(f"a radius bounds a search of embeddings by dori, got {method.spec().name}; leave it out")
    return replace(method, radius=radius)


def _attack_of(request: AttackRequest) -> Attack:
    method = build("attack", request.method, dict(request.options))
    if not isinstance(method, Attack):
        raise InputError(f"expected an attack, got {request.method}")
    return method


def _bench(
    run: Run, request: AttackRequest, known: KnownImages, target: PipelineTarget
) -> tuple[Bench, Mapping[str, Tensor]]:
    """The judge and the settings of the audit, and the originals as pictures that a model encodes."""
    settings = run.manifest()["settings"]
    encoder, vectors = judged_by(run, request, target, [*known.works, *known.heldout])
    clip = None
    if request.clip is not None:
        clip = load_clip(request.clip, request.clip_pretrained, device=target.device)
    seeds = settings["seeds"] if request.n_seeds is None else range(request.n_seeds)
    bench = Bench(
        run=run, encoder=encoder, vectors=vectors, threshold=threshold_of(run),
        sampling=Sampling(**settings["sampling"]), seeds=tuple(seeds), natural=known.natural,
        memorized=known.memorized, keep=request.keep, look_at=EARLY if request.early_stop else (),
        describe=None if clip is None else clip.differentiable,
        describe_id="" if clip is None else clip.descriptor.id,
    )  # fmt: skip
    return bench, pictures_of(run, request.references, [*known.works, *known.heldout], target.image_size)


def _judged(
    run: Run, request: AttackRequest, method: Attack, arms: Mapping[str, Record | None], seconds: float
) -> Record:
    there = {name: record for name, record in arms.items() if record is not None}
    threshold = threshold_of(run)
    parents = (f"threshold={threshold}", *(f"{name}={record.id}" for name, record in there.items()))
    record = run.load("attack", method.spec(), parents)
    if record is None:
        arms_of = {name: arm_of(record, threshold) for name, record in there.items() if WITHIN not in name}
        verdict = attack_verdict(arms_of, absent=_absent(request, method), sweep=_sweep(there))
        data = {
            "verdict": plain(verdict), "arms": {name: record.id for name, record in there.items()},
            "searches": method.searches, "seconds": round(seconds, 1),
        }  # fmt: skip
        record = Record(stage="attack", made_by=method.spec(), parents=parents, data=data, tensors={})
        run.save(record)
        run.event("attacked", record=record.id, method=request.method)
    return record


def _absent(request: AttackRequest, method: Attack) -> dict[str, str]:
    """Why random search is not there; other controls are absent where they were not given."""
    if method.by_chance() is None:
        return {"random": "the attack itself is a search without gradients"}
    return {} if request.random else {"random": "it was switched off"}


def _sweep(arms: Mapping[str, Record]) -> dict[str, dict[float, Tensor]]:
    """Scores of every input that was kept, by arm and radius."""
    found: dict[str, dict[float, Tensor]] = {}
    for name, record in arms.items():
        arm, bounded, radius = name.partition(WITHIN)
        if bounded:
            found.setdefault(arm, {})[float(radius)] = record.tensors["scores"].flatten(1)
    return found
