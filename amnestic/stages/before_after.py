"""Compares an audit of an edited model with that of the model before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amnestic.audit.before_after import changes, groups_of, likeness_to_twin, rates, side_of
from amnestic.audit.replication import deciding_rows, rows_with
from amnestic.audit.request import AuditRequest
from amnestic.audit.summary import Judged
from amnestic.core.edit_file import FINETUNED, load_edit, read_header
from amnestic.core.errors import InputError, StoreError
from amnestic.core.names import name_for_others
from amnestic.core.records import Unit, plain
from amnestic.core.store import Run, different
from amnestic.measures.distribution import change_of_distance, clip_mmd, kid
from amnestic.model.target import PipelineTarget
from amnestic.sources.image_sets import read_image_set, require_image_set
from amnestic.stages.embedding import alignment_of, embeddings
from amnestic.stages.images import Images, images_of
from amnestic.stages.inputs import Inputs, Progress
from amnestic.stages.judges import Judges
from amnestic.stages.pruning import edit_path

NO_INCEPTION = ("KID on Inception features", "no Inception weights are at hand")
MOST_REAL = 2000
"""So many real images are taken at most, the first ones; kernels compare all with all."""
KID_SUBSET = 100


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An audit of the same prompts and seeds with another model.

    Attributes:
        run: Its folder.
        images: Opens its images.
        sscd: Descriptors of its images, ``(P, S, D)``.
        clip: The same under CLIP, or `None`.
        alignment: CLIP alignment of its images with the prompts, ``(P, S)``, or `None`.
    """

    run: Run
    images: Images
    sscd: Tensor
    clip: Tensor | None
    alignment: Tensor | None


def earlier_audit(
    folder: Path, request: AuditRequest, inputs: Inputs, judges: Judges, target: PipelineTarget, progress: Progress
) -> Earlier:  # fmt: skip
    """Open an audit that this one is compared with.

    Args:
        folder: Of the other audit.
        request: What was asked of this one.
        inputs: Its prompts and originals.
        judges: Judge the images of both.
        target: Decodes latents, where only those were kept.
        progress: Told how far the describing is.

    Raises:
        StoreError: If it has not finished.
    """
    other = Run.open(folder)
    missing = other.missing([Unit(p.id, s) for p in inputs.prompts for s in range(request.n_seeds)])
    if any(not other.kept_file(unit).exists() for unit in missing):
        raise StoreError(f"{folder} has not finished; issue its command again first")
    images = images_of(other, target)
    described = partial(embeddings, other, request, inputs, images=images, progress=progress)
    clip = described(encoder=judges.clip)[0] if judges.clip is not None else None
    return Earlier(
        run=other, images=images, sscd=described(encoder=judges.sscd)[0], clip=clip,
        alignment=alignment_of(judges.clip, inputs, clip) if judges.clip is not None and clip is not None else None,
    )  # fmt: skip


def require_comparable(request: AuditRequest, settings: Mapping[str, Any]) -> None:
    """Refuse before anything is drawn what could not be compared afterwards.

    Args:
        request: With the runs to compare with, and real images.
        settings: Of this run.

    Raises:
        StoreError: If a run drew other prompts, seeds or with other settings, or is not that of the edited model.
        InputError: If the edit is not in the run before, or real images cannot be read.
    """
    for folder in (request.before, request.twin):
        if folder is not None:
            theirs = Run.open(folder).manifest()["settings"]
            changed = different(_drawing(theirs), _drawing(settings))
            if changed:
                raise StoreError(f"{folder} cannot be compared with this audit ({changed}); audit both models alike")
    if request.before is not None:
        edit_of(request.model, Run.open(request.before), settings["model"]["digest"])
    if request.real_images is not None:
        require_image_set(request.real_images)


def _drawing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the images but the weights."""
    model = settings["model"]
    return {k: v for k, v in settings.items() if k != "model"} | {"dtype": model["dtype"]}


def before_after(
    request: AuditRequest, judges: Judges, sscd: Judged, clip: Judged | None, alignment: Tensor | None,
    before: Earlier, after: Run, twin: Earlier | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that is compared between the model before an edit and the model after it.

    Args:
        request: What was asked of the audit.
        judges: Its judges.
        sscd: What was found in the edited model's images.
        clip: The same under CLIP, or `None`.
        alignment: CLIP alignment of those images, or `None`.
        before: The audit before the edit.
        after: The audit of the edited model.
        twin: An audit of a model that never saw the works, if there is one.

    Returns:
        Plain data; what was not measured is listed with the reason.
    """
    embedded = sscd.embedded
    one = side_of(embedded, before.sscd, before.alignment)
    other = side_of(embedded, embedded.generated, alignment)
    edit = edit_of(request.model, before.run, after.manifest()["settings"]["model"]["digest"])
    works = set(edit["works"]) if edit else set()
    located = [r for r in deciding_rows(embedded) if embedded.work_of(r) in works]
    if sscd.threshold is None:
        raise ValueError("the deciding descriptor needs a threshold")
    groups = groups_of(embedded, sorted(works), edit["other_works"] if edit else ())
    distances, missing = _distances(request, judges, before, clip, rows_with(embedded, "base"))
    found = changes(embedded, one, other, sscd.descriptor.name, located)
    if twin is None:
        missing.append(("Distance to a model that never saw the works", "no audit of one was given; add --twin RUN"))
    else:
        found += likeness_to_twin(embedded, one, other, twin.sscd, sscd.descriptor.name, located)
    return {
        "before": _named(before.run), "after": _named(after), "edit": edit,
        "rates": rates(embedded, one, other, sscd.threshold.value, groups), "changes": found, "distances": distances,
        "not_measured": [list(pair) for pair in missing],
    }  # fmt: skip


def edit_of(model: str, before: Run, digest: str) -> dict[str, Any] | None:
    """The edit that made a model, from the run it was pruned from; `None` for a model that names no edit.

    Args:
        model: Folder of the edited model.
        before: The audit that it was pruned from.
        digest: Of the weights that were audited after the edit.

    Raises:
        InputError: If the run does not hold the edit.
        StoreError: If the edit was made for another model than the run audited, or the weights changed since.
    """
    header = read_header(Path(model))
    if header is None:
        return None
    if header.get("kind") == FINETUNED:
        return _finetuning_of(model, before, header["edit"], digest)
    file = edit_path(before, header["edit"])
    if not file.is_file():
        raise InputError(f"{before.folder} holds no {header['edit']}; give as --before the run that was pruned")
    edit, about = load_edit(file)
    _require_turned(model, before, edit.model, about["result"], digest)
    return {
        "method": edit.made_by.name, "parameters": plain(edit.made_by.parameters),
        "located_by": about["located_by"]["name"], "located_parameters": about["located_by"]["parameters"],
        "weights": about["weights"], "share": about["share"], "selected": len(about["works"]),
        "works": about["works"], "other_works": about["other_works"], "sites": about["sites"],
        "traces": about["traces"], "steps": about.get("steps"),
    }  # fmt: skip


def _require_turned(model: str, before: Run, source: str, result: str, digest: str) -> None:
    audited = before.manifest()["settings"]["model"]["digest"]
    if source != audited or result != digest:
        raise StoreError(
            f"the edit of {name_for_others(model)} turns {source[:12]} into {result[:12]}, but the audits "
            f"are of {audited[:12]} and {digest[:12]}; edit again, or audit the models that belong together"
        )


def _finetuning_of(model: str, before: Run, name: str, digest: str) -> dict[str, Any]:
    """What is told of a fine-tuned model, from the record of the run that it was made from."""
    if name not in before.records("finetune"):
        raise InputError(f"{before.folder} holds no {name}; give as --before the run that was fine-tuned")
    record = before.record(name)
    data, settings = record.data, record.made_by.parameters
    _require_turned(model, before, data["model"], data["result"], digest)
    return {
        "method": record.made_by.name, "parameters": plain(settings), "located_by": "fine-tuning",
        "located_parameters": {"parameters": settings["parameters"]}, "weights": data["weights"],
        "share": data["share"], "selected": len(data["works"]), "works": data["works"],
        "other_works": data["other_works"], "sites": [], "traces": {"exact_zeros": None, "auc_of_smallness": None},
        "steps": None,
    }  # fmt: skip


def _distances(
    request: AuditRequest, judges: Judges, before: Earlier, clip: Judged | None, base: list[int]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Distances of base images from real ones, before and after; and what was not measured."""
    if judges.clip is None or clip is None or before.clip is None:
        return [], [("CLIP alignment, CLIP-MMD and KID", "no CLIP model was given; add --clip NAME"), NO_INCEPTION]
    if request.real_images is None or len(base) < 2:
        why = "fewer than two base prompts" if len(base) < 2 else "no real images were given; add --real-images PATH"
        return [], [("CLIP-MMD and KID", why), NO_INCEPTION]
    real = torch.cat([judges.clip([image]).cpu() for image in islice(read_image_set(request.real_images), MOST_REAL)])
    one, other = before.clip[base], clip.embedded.generated[base]
    clusters = [r for r in range(len(base)) for _ in range(one.shape[1])]
    found, missing = [], [NO_INCEPTION]
    subset = min(KID_SUBSET, len(real), len(base) // 2 * one.shape[1])  # halves are drawn by whole prompts
    measures: list[tuple[str, Callable[[Tensor, Tensor], float], str]] = [("CLIP-MMD", clip_mmd, "bootstrap")]
    if subset >= 2:
        measures.append(("KID (CLIP features)", _kid(subset), "half"))
    else:
        missing.append(("KID", "too few real images or base prompts"))
    for name, measure, resampling in measures:
        change = change_of_distance(
            one.flatten(0, 1), other.flatten(0, 1), real, measure=measure, seed=0, n_resamples=200, groups=clusters,
            resampling=resampling,
        )  # fmt: skip
        found.append(
            {"name": f"{name} of base prompts to {len(real)} real images", "before": change.before,
             "after": change.after, "unit": judges.clip.descriptor.name, "change": plain(change)}
        )  # fmt: skip
    return found, missing


def _kid(subset: int) -> Callable[[Tensor, Tensor], float]:
    return lambda a, b: kid(a, b, subset_size=subset, n_subsets=5, seed=0).mean


def _named(run: Run) -> Mapping[str, str]:
    model = run.manifest()["settings"]["model"]
    return {"model": name_for_others(model["name"]), "digest": model["digest"], "run": run.folder.name}
