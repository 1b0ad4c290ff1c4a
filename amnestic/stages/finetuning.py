"""Teaches the audited model to forget works, and writes it as a model folder that loads anywhere."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from amnestic.audit.selection import Selected, Selection
from amnestic.core.attacks import Attack
from amnestic.core.edit_file import FINETUNED, read_header
from amnestic.core.errors import InputError
from amnestic.core.finetuning import FineTuning, Lesson, Pair
from amnestic.core.records import SCHEMA, Prompt, Sampling, Unit, plain
from amnestic.core.registry import build
from amnestic.core.store import Record, Run, record_id
from amnestic.measures.pixels import match_size
from amnestic.mitigations.finetune.loop import Tuned, Watch
from amnestic.mitigations.finetune.loop import finetune as train
from amnestic.model.clip import load_clip
from amnestic.model.target import PipelineTarget
from amnestic.model.trainee import changed
from amnestic.parallel import Team, team
from amnestic.sources.image_sets import read_captioned
from amnestic.stages.images import images_of
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.locating import selected
from amnestic.stages.models import model_of, second_model
from amnestic.stages.originals import goals_of, hash_of, judged_by, pictures_of
from amnestic.stages.pruning import require_free, write_model
from amnestic.stages.scores import scored
from amnestic.stages.sealing import seal_run
from amnestic.stages.surrogates import Wanted, surrogates, without_copies


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """Everything a person asks of `finetune`.

    Attributes:
        run: Folder of a finished audit.
        out: Folder of the new model; must not exist, be empty, or hold this very model.
        references: Folder of the originals that the audit's prompts name.
        method: Name of a way of fine-tuning.
        options: Its settings that differ from the default.
        attack: Name of the attack that searches adversarial embeddings, for methods that need one.
        attack_options: Its settings that differ from the default.
        selection: Which of the works that replicate are to be forgotten.
        surrogates_from: A model that draws surrogates, such as a pruned one, or the run of its audit, for methods that
            need them.
        surrogates: How many per work, and how unlike the originals.
        leave_out_copies: Whether works of which it draws only copies are left out instead of refused.
        retain: Captioned images that the model stays capable of; default what it drew for the audit's base prompts.
        n_retain: At most so many.
        work: Folder of the checkpoint; default inside the run.
        clip, clip_pretrained: open_clip model for attacks whose loss goes through a descriptor; `None`: none.
        descriptor: The descriptor that judged the audit, as ``audit`` was told.
        sscd_weights: File of its weights, likewise.
        model: Where the model lies now, if not where the audit found it.
        device, allow_pickle: How models are loaded.
    """

    run: Path
    out: Path
    references: Path
    method: str = "adversarial"
    options: Mapping[str, Any] = field(default_factory=dict)
    attack: str = "dori"
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    surrogates_from: str | None = None
    surrogates: Wanted = field(default_factory=Wanted)
    leave_out_copies: bool = False
    retain: Path | None = None
    n_retain: int = 2000
    work: Path | None = None
    clip: str | None = None
    clip_pretrained: str | None = None
    descriptor: str = "auto"
    sscd_weights: Path | None = None
    model: str | None = None
    device: str = "auto"
    allow_pickle: bool = False


def finetune(
    request: FinetuneRequest, *, progress: Progress = silent, watch: Watch | None = None, watch_at: Sequence[int] = ()
) -> Record | None:
    """Fine-tune the audited model; issuing the same command again continues where it stopped.

    Args:
        request: What is asked.
        progress: Told how far it is.
        watch: Measures the model on the way; never used to learn.
        watch_at: Steps after which it is asked.

    Returns:
        The record: settings, loss curves, passes, seconds, what changed. `None` in processes other than the main one.

    Raises:
        InputError: If an option cannot be used, nothing replicates, surrogates are copies, or the model is not the
            audited one.
        StoreError: If the audit has not finished, or `out` holds something else than this model.
        NotFinite: If training came to NaN or infinity.
    """
    run, crew = Run.open(request.run), team(request.device)
    method, attack = _method_of(request), _attack_of(request)
    if read_header(request.out) is None:
        require_free(request.out)
    chosen = selected(run, request.selection)
    if not chosen.memorized:
        raise InputError(f"no work of this selection replicates in {run.folder}, so there is nothing to forget")
    target = model_of(run, model=request.model, device=request.device, allow_pickle=request.allow_pickle)
    lesson, about = _lesson(run, request, method, attack, chosen, target, crew, progress)
    name = record_id("finetune", method.spec(), _parents(run, lesson))
    header = read_header(request.out)
    if header is not None and header["edit"] == name and name in run.records("finetune"):
        crew.on_main(lambda: seal_run(run))
        return crew.on_main(lambda: run.record(name))
    require_free(request.out)
    work = (request.work or run.folder / "training") / name
    tuned = train(
        method, target, lesson, work=work, crew=crew, watch=watch, watch_at=watch_at,
        report=lambda done, total, _loss: progress(f"fine-tune with {request.method}", done, total),
    )  # fmt: skip
    made = crew.on_main(lambda: _written(run, request, method, lesson, target, tuned, about))
    crew.on_main(lambda: shutil.rmtree(work, ignore_errors=True))
    crew.on_main(lambda: seal_run(run))
    return made


def _method_of(request: FinetuneRequest) -> FineTuning:
    method = build("finetuning", request.method, dict(request.options))
    if not isinstance(method, FineTuning):
        raise InputError(f"expected a way of fine-tuning, got {request.method}")
    if method.needs_surrogates and request.surrogates_from is None:
        raise InputError(
            f"{request.method} teaches surrogates drawn by a pruned model; prune {request.run} and give that model "
            "with --surrogates-from"
        )
    return method


def _attack_of(request: FinetuneRequest) -> Attack:
    attack = build("attack", request.attack, dict(request.attack_options))
    if not isinstance(attack, Attack):
        raise InputError(f"expected an attack, got {request.attack}")
    return attack


def _lesson(
    run: Run, request: FinetuneRequest, method: FineTuning, attack: Attack, chosen: Selected, target: PipelineTarget,
    crew: Team, progress: Progress,
) -> tuple[Lesson, dict[str, Any]]:  # fmt: skip
    """What the model is taught, and what is told of it."""
    works, taught, about = chosen.memorized, {}, {}
    if method.needs_surrogates and request.surrogates_from is not None:
        record = _surrogates(run, request, target, works, crew, progress)
        works = without_copies(record, works, request.surrogates_from, leave_out=request.leave_out_copies)
        taught = {p.id: record.tensors[p.id] for p in works}
        about = {"surrogates": record.id, "surrogate_passes": record.data["passes"]}
    pictures = pictures_of(run, request.references, works, target.image_size)
    natural = tuple(p for p in chosen.controls if p.label == "base")
    clip = load_clip(request.clip, request.clip_pretrained, device=target.device) if request.clip else None
    lesson = Lesson(
        forget=goals_of(target, works, pictures), surrogates=taught,
        retain=_pairs(run, request, natural, target) if method.needs_retain and method.retain_rows else (),
        natural=natural, memorized=(*chosen.memorized, *chosen.others),
        sampling=Sampling(**run.manifest()["settings"]["sampling"]), attack=attack if method.needs_attack else None,
        describe=clip.differentiable if clip else None, describe_id=clip.descriptor.id if clip else "",
    )  # fmt: skip
    left_out = [p.work for p in chosen.memorized if p not in works]
    origin = "drawn by the model for base prompts of the audit" if request.retain is None else "given"
    return lesson, about | {
        "works": [p.work for p in works], "prompts": [p.id for p in works], "left_out": left_out,
        "other_works": [p.work for p in chosen.others], "retained": len(lesson.retain), "retained_origin": origin,
    }  # fmt: skip


def _surrogates(
    run: Run, request: FinetuneRequest, target: PipelineTarget, works: Sequence[Prompt], crew: Team,
    progress: Progress,
) -> Record:  # fmt: skip
    source = second_model(str(request.surrogates_from), target, allow_pickle=request.allow_pickle)
    encoder, originals = judged_by(run, request, target, works)
    return surrogates(run, source, works, request.surrogates, encoder=encoder, originals=originals, crew=crew,
                      progress=progress)  # fmt: skip


def _pairs(
    run: Run, request: FinetuneRequest, base: Sequence[Prompt], target: PipelineTarget
) -> tuple[Pair, ...]:  # fmt: skip
    """Ordinary pairs: those that were given, or what the model itself drew for base prompts."""
    if request.retain is not None:
        listed = enumerate(islice(read_captioned(request.retain), request.n_retain))
        some = ((Prompt(id=f"retain-{i}", prompt=text, label="base"), picture) for i, (text, picture) in listed)
    else:
        drawn, seeds = images_of(run, target), run.manifest()["settings"]["seeds"]
        units = islice(((p, Unit(p.id, s)) for s in seeds for p in base), request.n_retain)
        some = ((p, drawn(unit)) for p, unit in units)
    side = (target.image_size, target.image_size)
    fitting = ((p, match_size(picture, side)) for p, picture in some)
    found = tuple(Pair(prompt=p, latents=target.latents_of([x])[0].float().cpu(), image=hash_of(x)) for p, x in fitting)
    if not found:
        raise InputError("there are no ordinary pairs: the audit drew no base prompts; give images with --retain PATH")
    return found


def _parents(run: Run, lesson: Lesson) -> tuple[str, ...]:
    return (run.manifest()["digest"], scored(run).id, lesson.digest())


def _written(
    run: Run, request: FinetuneRequest, method: FineTuning, lesson: Lesson, target: PipelineTarget, tuned: Tuned,
    about: Mapping[str, Any],
) -> Record:  # fmt: skip
    """The record first, then the folder: a folder that is there has its record."""
    differs = changed(target, tuned.model)
    data = dict(about) | {
        "model": target.ident.digest, "result": tuned.model.ident.digest, "dtype": target.ident.dtype,
        "attack": plain(lesson.attack.spec()) if lesson.attack is not None else None,
        "steps": tuned.steps, "seconds": round(tuned.seconds, 1), "weights": differs["weights"],
        "share": differs["weights"] / differs["of"], "bytes": differs["bytes"],
        "passes": {name: {"forward": c.forward, "backward": c.backward} for name, c in tuned.cost.items()},
        "loss": {name: _ends(curve) for name, curve in tuned.curves.items()},
        "watched": [{k: v if math.isfinite(v) else None for k, v in one.items()} for one in tuned.watched],
    }  # fmt: skip
    tensors = {f"curve.{name}": torch.tensor(values, dtype=torch.float64) for name, values in tuned.curves.items()}
    record = Record(
        stage="finetune", made_by=method.spec(), parents=_parents(run, lesson), data=data, tensors=tensors
    )  # fmt: skip
    run.save(record)
    write_model(tuned.model, request.out, {
        "schema": SCHEMA, "kind": FINETUNED, "edit": record.id, "model": target.ident.digest,
        "result": tuned.model.ident.digest, "dtype": target.ident.dtype, "method": record.made_by.name,
        "weights": differs["weights"],
    })  # fmt: skip
    run.event("finetuned", record=record.id, method=record.made_by.name, steps=tuned.steps)
    return record


def _ends(curve: Sequence[float]) -> dict[str, float | None]:
    """Mean of the first and of the last tenth of a curve."""
    n = max(1, len(curve) // 10)
    found = {"first": sum(curve[:n]) / n, "last": sum(curve[-n:]) / n}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
