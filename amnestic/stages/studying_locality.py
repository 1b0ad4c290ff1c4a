"""Is memorization local? Many starts for one image, what their ends have in common, and pruning again and again."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amnestic.audit.locality import activation_discrepancy, geometry
from amnestic.audit.selection import Selection
from amnestic.audit.weight_agreement import weight_agreement
from amnestic.core.methods import Localizer
from amnestic.core.records import MethodSpec, Prompt, plain
from amnestic.core.seeds import seed_for
from amnestic.core.store import Record, Run, write_atomically
from amnestic.measures.dispersion import (
    Spread,
    gaussian_distance,
    neighbour_map,
    pairwise_l2,
    principal_plane,
    spread,
)
from amnestic.measures.intervals import cluster_rate, rate
from amnestic.parallel import Team, team
from amnestic.report.locality_page import render_locality
from amnestic.stages.inputs import Progress, silent
from amnestic.stages.locality_rounds import prune_rounds
from amnestic.stages.locality_study import Ends, Study, ends_of, study_of
from amnestic.stages.scores import scored
from amnestic.stages.sealing import seal_run

METHODS: Mapping[str, Mapping[str, Any]] = {"wanda-subspace": {}, "nemo": {}}


@dataclass(frozen=True, kw_only=True)
class LocalityRequest:
    """Everything a person asks of `locality`.

    Attributes:
        run: Folder of a finished audit of the model; its works that replicate are studied.
        references: Folder of the originals that the audit's prompts name.
        selection: Which of the works that replicate, and which controls localizers compare with.
        works: Images that are searched from many starts, and as many held-out ones.
        starts: Starting points from N(0, I) for each.
        n_seeds: Images per found embedding that score.
        attack: Settings of ``dori`` that differ from the default; it starts where the study says.
        localizers: Settings of the localizers whose units are compared, by name.
        n_masks: Embeddings of a set that units are located by.
        empty: What the IoU of two empty masks counts: 1, 0, or `None` to leave such pairs out.
        rounds: How often units are located by what the last attack found, and pruned; 0 leaves that out.
        round_works: Works that are pruned for.
        prune_with: Which of the localizers.
        n_base: Ordinary prompts whose images tell what pruning costs.
        tsne: Whether a map by t-SNE is drawn beside the principal plane.
        clip: An open_clip model for the agreement of image and prompt, or `None`.
        clip_pretrained: Its weights.
        descriptor: What judged the audit, if it cannot be found by itself.
        sscd_weights: Its weights.
        model: Where the model lies now, if not where the audit found it.
        device, allow_pickle: How the model is loaded.
    """

    run: Path
    references: Path
    selection: Selection = field(default_factory=Selection)
    works: int = 3
    starts: int = 100
    n_seeds: int = 2
    attack: Mapping[str, Any] = field(default_factory=dict)
    localizers: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: METHODS)
    n_masks: int = 20
    empty: float | None = 1.0
    rounds: int = 3
    round_works: int = 10
    prune_with: str = "wanda-subspace"
    n_base: int = 20
    tsne: bool = False
    clip: str | None = None
    clip_pretrained: str | None = None
    descriptor: str = "auto"
    sscd_weights: Path | None = None
    model: str | None = None
    device: str = "auto"
    allow_pickle: bool = False


def locality(request: LocalityRequest, *, progress: Progress = silent) -> Record | None:
    """Study where memorization lies; writes a record and ``locality.html`` into the run.

    An interrupted study continues: searches, masks and rounds are records of their own.

    Args:
        request: What is asked.
        progress: Told how far it is.

    Returns:
        The record: starts that bring the image, distances, discrepancy of activations, agreement of weights, and
        rounds of pruning. `None` in processes other than the main one.

    Raises:
        InputError: If nothing replicates, an option cannot be used, an original is missing, or the model is not the
            audited one.
        StoreError: If the audit has not finished.
    """
    crew, run = team(request.device), Run.open(request.run)
    made_by, parents = _identity(request), (run.manifest()["digest"], scored(run).id)
    if run.load("locality", made_by, parents) is None:
        started = time.monotonic()
        study = study_of(run, request)
        crew.on_main(lambda: _by_prompts(study, progress))  # quick, and refuses settings before hours are spent
        for work in (*study.works, *study.heldout):
            _arm(study, work, crew, progress)
        crew.on_main(lambda: run.save(_studied(study, made_by, parents, started, progress)))
    return crew.on_main(lambda: _shown(run, made_by, parents))


def _identity(request: LocalityRequest) -> MethodSpec:
    """What was asked, without what only says where things lie."""
    elsewhere = ("run", "references", "sscd_weights", "descriptor", "model", "device", "allow_pickle")
    asked = {name: plain(getattr(request, name)) for name in request.__dataclass_fields__ if name not in elsewhere}
    return MethodSpec(name="locality", parameters=asked)


def _shown(run: Run, made_by: MethodSpec, parents: Sequence[str]) -> Record:
    record = run.load("locality", made_by, parents)
    assert record is not None  # noqa: S101 - it was there, or has just been written
    write_atomically(run.folder / "locality.html", render_locality(record.data, record.tensors, plain(made_by)))
    seal_run(run, "locality.html")
    return record


def _by_prompts(study: Study, progress: Progress) -> dict[str, dict[str, Record]]:
    """Units located by the prompts of memorized works, and by ordinary prompts."""
    n, found = study.request.n_masks, dict[str, dict[str, Record]]()
    for name, method in study.localizers.items():
        found[name] = {
            "memorized": study.masks_of_prompts(method, study.memorized[:n], progress),
            "natural": study.masks_of_prompts(method, study.natural[:n], progress),
        }
    return found


def _arm(study: Study, work: Prompt, crew: Team | None, progress: Progress) -> Ends | None:
    """All searches for one image."""
    goals = study.start_goals(work)
    name = f"search {work.work or work.id} from {len(goals)} starts"
    record = study.bench.arm(study.target, study.from_noise, goals, team=crew, progress=progress, name=name)
    return None if record is None else ends_of(record, study.starting_points(goals))


def _studied(study: Study, made_by: MethodSpec, parents: tuple[str, ...], started: float, progress: Progress) -> Record:
    found = {
        group: {w.work or w.id: ends for w in works if (ends := _arm(study, w, None, progress)) is not None}
        for group, works in (("memorized", study.works), ("heldout", study.heldout))
    }
    natural = study.encoded(study.natural)
    apart = spread(pairwise_l2(natural))
    data = {
        "threshold": study.bench.threshold, "seeds": list(study.bench.seeds), "attack": plain(study.from_noise.spec()),
        "control_kinds": study.control_kinds, "shape": list(natural.shape[1:]),
        "gaussian_distance": gaussian_distance(*natural.shape[1:]), "natural": plain(apart),
        "n_memorized": len(study.memorized), "n_starts": study.request.starts,
        "starts": [_row(group, work, ends, apart, study) for group, ends_by in found.items()
                   for work, ends in ends_by.items()],
        "overall": {group: _overall(ends_by, study) for group, ends_by in found.items()},
        "activations": _activations(study, found, natural, progress),
        "agreement": {name: _agreement(study, method, found, progress) for name, method in study.localizers.items()},
        "rounds": prune_rounds(study, progress=progress) if study.request.rounds else None,
        "notes": _notes(study, found),
    }  # fmt: skip
    maps, tensors = _maps(study, found, natural)
    data |= {"maps": maps, "seconds": round(time.monotonic() - started, 1)}
    return Record(stage="locality", made_by=made_by, parents=parents, data=data, tensors=tensors)


def _row(group: str, work: str, ends: Ends, natural: Spread, study: Study) -> dict[str, Any]:
    """One image: how many starts bring it, and how far apart they begin and end."""
    came, n = ends.came(study.bench.threshold), len(ends.found)
    at_start = (ends.before > study.bench.threshold).any(dim=1)
    return {
        "group": group, "work": work, "came": plain(rate(int(came.sum()), n)),
        "at_start": plain(rate(int(at_start.sum()), n)), "score": float(ends.after.amax(dim=1).median()),
        "geometry": plain(geometry(ends.starts, ends.found, came, natural)),
    }  # fmt: skip


def _overall(ends_by: Mapping[str, Ends], study: Study) -> dict[str, Any]:
    """Over images, with an interval that knows that starts of one image go together."""
    hits = [bool(hit) for ends in ends_by.values() for hit in ends.came(study.bench.threshold)]
    owners = [work for work, ends in ends_by.items() for _ in range(len(ends.found))]
    rng = np.random.default_rng(seed_for(0, "locality", "starts"))
    return plain(cluster_rate(hits, owners, rng=rng))  # type: ignore[no-any-return]


Found = Mapping[str, Mapping[str, Ends]]


def _activations(study: Study, found: Found, natural: Tensor, progress: Progress) -> list[dict[str, Any]]:
    """Per layer, for what was found, for prompts, and for the starts before any search."""
    progress("compare activations", 0, 1)
    sets: dict[str, Tensor] = {"memorized": study.encoded(study.memorized), "natural": natural}
    sets |= {f"found/{w}": ends.found[ends.came(study.bench.threshold)] for w, ends in found["memorized"].items()}
    sets |= {f"heldout/{w}": ends.found for w, ends in found["heldout"].items()}
    sets |= {f"starts/{w}": ends.starts for w, ends in list(found["memorized"].items())[:1]}
    rows = activation_discrepancy(study.target, sets, study.bench.sampling)
    progress("compare activations", 1, 1)
    return [
        {"site": row.site, "stage": row.stage, "kind": row.kind,
         **{group: _mean(v for name, v in row.means.items() if name.partition("/")[0] == group)
            for group in ("found", "heldout", "starts", "memorized", "natural")}}
        for row in rows
    ]  # fmt: skip


def _agreement(study: Study, method: Localizer, found: Found, progress: Progress) -> dict[str, Any]:
    """Overlap of the units that single embeddings choose, with how many they are."""
    n, prompts = study.request.n_masks, _by_prompts(study, progress)[method.spec().name]
    records = [("memorized", "", prompts["memorized"]), ("natural", "", prompts["natural"])]
    for work, ends in found["memorized"].items():
        came = ends.found[ends.came(study.bench.threshold)][:n]
        records.append(("found", work, study.masks_of_ends(method, work, came, progress)))
    for work, ends in found["heldout"].items():
        records.append(("heldout", work, study.masks_of_ends(method, work, ends.found[:n], progress)))
    chosen = [one for group, work, record in records for one in study.chosen(record, group, work)]
    rows = weight_agreement(method.searched(study.target), chosen, empty=study.request.empty)
    counts: dict[str, list[int]] = {}
    for group, _, record in records:
        counts[group] = counts.get(group, []) + record.data["units"]
    return {
        "layers": [plain(row) for row in rows], "empty": study.request.empty,
        "units": counts, "passes": sum(record.data["passes"] for _, _, record in records),
        "settings": plain(method.spec().parameters),
    }  # fmt: skip


def _maps(study: Study, found: Found, natural: Tensor) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Starts, results and natural prompts of every memorized image on a plane, in this order."""
    maps, tensors = [], dict[str, Tensor]()
    for number, (work, ends) in enumerate(found["memorized"].items()):
        points = torch.cat([ends.starts, ends.found, natural])
        if len(points) < 4:
            continue
        drawn = {"principal": principal_plane(points)}
        if study.request.tsne:
            drawn["t-sne"] = neighbour_map(points, seed=0)
        for how, plane in drawn.items():
            name = f"map.{number}.{how}"
            tensors[name] = plane.points
            maps.append({
                "work": work, "how": how, "tensor": name, "explained": plain(plane.explained),
                "n": [len(ends.starts), len(ends.found), len(natural)],
                "came": ends.came(study.bench.threshold).tolist(),
            })  # fmt: skip
    return maps, tensors


def _notes(study: Study, found: Found) -> list[str]:
    notes = list(study.notes)
    for work, ends in found["memorized"].items():
        came = int(ends.came(study.bench.threshold).sum())
        if came < 2:
            notes.append(
                f"Of {len(ends.found)} searches for {work} {came} bring it, so there is no pair of embeddings of it to "
                "compare."
            )
    return notes


def _mean(values: Any) -> float | None:  # noqa: ANN401 - any iterable of numbers and None
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
