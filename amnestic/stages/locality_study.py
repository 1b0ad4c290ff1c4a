"""What all parts of a study of locality share: model, judge, prompts, and records of what was located."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amnestic.attacks.dori import Dori
from amnestic.attacks.starts import starting_points
from amnestic.audit.attack_goals import known_images
from amnestic.audit.selection import Selection, select
from amnestic.audit.weight_agreement import Chosen, calibrated, located_by
from amnestic.core.attacks import AttackCase, Goal
from amnestic.core.errors import InputError
from amnestic.core.methods import Case, Localizer, Located
from amnestic.core.protocols import AlignmentEncoder
from amnestic.core.records import Prompt, Sampling, digest, plain
from amnestic.core.registry import build
from amnestic.core.store import Record, Run
from amnestic.model.clip import load_clip
from amnestic.model.target import PipelineTarget
from amnestic.stages.attack_bench import Bench
from amnestic.stages.inputs import Progress
from amnestic.stages.judges import judge_of
from amnestic.stages.locating import identity
from amnestic.stages.models import model_of
from amnestic.stages.originals import goals_of, pictures_of
from amnestic.stages.scores import described, threshold_of

if TYPE_CHECKING:
    from amnestic.stages.studying_locality import LocalityRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class Ends:
    """Where N searches began and ended.

    Attributes:
        starts: Where they began ``(N, L, W)``; empty where nobody asked.
        found: Where they ended ``(N, L, W)``, the best try of each.
        before: Similarity of S images of each start with the original ``(N, S)``.
        after: The same of what was found.
    """

    starts: Float[Tensor, "N L W"]
    found: Float[Tensor, "N L W"]
    before: Float[Tensor, "N S"]
    after: Float[Tensor, "N S"]

    def came(self, threshold: float) -> Bool[Tensor, "N"]:
        """Which results draw the image: at least one of their S images scores above the threshold."""
        return (self.after > threshold).any(dim=1)


def ends_of(record: Record, starts: Tensor | None = None) -> Ends:
    """Where the searches of an arm ended.

    Args:
        record: As `Bench.arm` leaves it.
        starts: Where they began, if that is of interest.
    """
    scores, cond = record.tensors["scores"], record.tensors["cond"]
    after = scores[:, :, -1].nan_to_num(-1.0)
    best, rows = after.amax(dim=2).argmax(dim=1), torch.arange(len(scores))
    return Ends(
        starts=cond[0, :0] if starts is None else starts, found=cond[best, rows], before=scores[:, 0, 0],
        after=after[rows, best],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all parts of a study share.

    Attributes:
        request: What was asked.
        target: The model, unpruned.
        bench: Where attacks are made and scored.
        attack: The attack of the rounds, from the images' own prompts.
        localizers: By name, with the threshold that fits the model.
        memorized: Prompts of the works that replicate.
        works: Those whose images are searched from many starts.
        heldout: Held-out works, for the same.
        heldout_in_rounds: Held-out works beside those that are pruned for.
        natural: Ordinary prompts.
        controls: What localizers compare with.
        control_kinds: How many controls are of which kind.
        pictures: Originals by prompt id.
        clip: For the agreement of image and prompt, or `None`.
        notes: What has to be known about the choice, sentences.
    """

    request: "LocalityRequest"
    target: PipelineTarget
    bench: Bench
    attack: Dori
    localizers: Mapping[str, Localizer]
    memorized: tuple[Prompt, ...]
    works: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    heldout_in_rounds: tuple[Prompt, ...]
    natural: tuple[Prompt, ...]
    controls: tuple[Prompt, ...]
    control_kinds: Mapping[str, int]
    pictures: Mapping[str, Any] = field(repr=False)
    clip: AlignmentEncoder | None = None
    notes: tuple[str, ...] = ()

    @property
    def from_noise(self) -> Dori:
        """The attack of the many starts: each is a search of its own."""
        return replace(self.attack, start="noise", restarts=1)

    @property
    def case(self) -> Case:
        """What localizers are given, but for the memorized prompts."""
        return Case(memorized=(), controls=self.controls, sampling=self.bench.sampling)

    def start_goals(self, work: Prompt) -> tuple[Goal, ...]:
        """One image as many goals; the number in its id gives each its own draws and its own images that score."""
        (goal,) = goals_of(self.target, [work], self.pictures)
        names = [start_id(work, i) for i in range(self.request.starts)]
        return tuple(replace(goal, prompt=replace(goal.prompt, id=name)) for name in names)

    def starting_points(self, goals: Sequence[Goal]) -> Float[Tensor, "N L W"]:
        """Where the searches of `from_noise` begin."""
        case = AttackCase(goals=tuple(goals))
        return starting_points(self.target, case, "noise", seed=self.from_noise.seed).float().cpu()

    def encoded(self, prompts: Sequence[Prompt]) -> Float[Tensor, "N L W"]:
        """Conditionings of up to as many prompts as there are starts, float32 on the CPU."""
        texts = [p.prompt for p in prompts[: self.request.starts]]
        rows = [self.target.encode([text]).float().cpu() for text in texts]
        return torch.cat(rows) if rows else self.target.encode([""])[:0].float().cpu()

    def masks_of_prompts(self, method: Localizer, prompts: Sequence[Prompt], progress: Progress) -> Record:
        """Units located by each prompt alone; a prompt is never its own control."""

        def locate(prompt: Prompt) -> Located:
            left = tuple(p for p in self.controls if p.prompt != prompt.prompt)
            return method(self.target, replace(self.case, memorized=(prompt,), controls=left))

        known = digest([[p.id, p.prompt] for p in prompts])
        return self._masks(method, known, [partial(locate, p) for p in prompts], progress, "prompts")

    def masks_of_ends(self, method: Localizer, work: str, conds: Float[Tensor, "N L W"], progress: Progress) -> Record:
        """Units located by each embedding alone."""

        def locate(place: int) -> Located:
            return located_by(method, self.target, {f"end-{place}": conds[place]}, self.case)

        known = digest(work, [float(one.double().sum()) for one in conds])
        every = [partial(locate, i) for i in range(len(conds))]
        return self._masks(method, known, every, progress, f"embeddings of {work}")

    def chosen(self, record: Record, group: str, work: str) -> list[Chosen]:
        """What each input of a record of masks chose."""
        found = []
        for place in range(len(record.data["units"])):
            start = f"{place}/"
            packed = {k.removeprefix(start): v for k, v in record.tensors.items() if k.startswith(start)}
            found.append(Chosen(group=group, work=work, packed=packed))
        return found

    def _masks(
        self, method: Localizer, known: str, every: Sequence[Callable[[], Located]], progress: Progress, of: str
    ) -> Record:
        run, made_by = self.bench.run, identity(method)
        controls = digest([[p.id, p.prompt] for p in self.controls], plain(self.bench.sampling))
        parents = (self.target.ident.digest, known, controls)
        record = run.load("locality-masks", made_by, parents)
        if record is not None:
            return record
        started, counts, passes, tensors = time.monotonic(), [], 0, dict[str, Tensor]()
        for place, locate in enumerate(every):
            progress(f"{made_by.name} on {of}", place, len(every))
            located = locate()
            counts.append(len(located.units))
            passes += located.passes
            tensors |= {f"{place}/{name}": bits for name, bits in located.units.packed().items()}
        data = {"units": counts, "passes": passes, "seconds": round(time.monotonic() - started, 1)}
        record = Record(stage="locality-masks", made_by=made_by, parents=parents, data=data, tensors=tensors)
        run.save(record)
        return record


def start_id(work: Prompt, number: int) -> str:
    """The id of one of many searches for an image."""
    return f"{work.id}.start-{number}"


def study_of(run: Run, request: "LocalityRequest") -> Study:
    """Everything that the parts of a study share, checked before anything is computed.

    Args:
        run: A finished audit.
        request: What is asked.

    Returns:
        The study.

    Raises:
        InputError: If nothing replicates, an option cannot be used, or an original is missing.
    """
    target = model_of(run, model=request.model, device=request.device, allow_pickle=request.allow_pickle)
    samples, matches = run.read_table("samples"), run.read_table("matches")
    chosen = select(samples, matches, threshold_of(run), request.selection)
    memorized = tuple(p for p in chosen.memorized if p.label != "TM" and p.image)
    if not memorized:
        raise InputError(
            f"expected works of {run.folder} that replicate and name an original, got none; audit a model that "
            "memorizes, or choose another --rung"
        )
    known = known_images(samples, matches, Selection(), n_controls=max(request.works, request.round_works))
    works, in_rounds = memorized[: request.works], memorized[: request.round_works]
    heldout = known.heldout[: len(works)]
    asked = {p.id: p for p in (*works, *in_rounds, *known.heldout)}
    case = Case(
        memorized=memorized, controls=chosen.controls, sampling=Sampling(**run.manifest()["settings"]["sampling"])
    )
    return Study(
        request=request, target=target, bench=_bench(run, request, target, [*asked.values()], known.natural),
        attack=_attack(request), localizers=_localizers(request, target, case), memorized=memorized, works=works,
        heldout=heldout, heldout_in_rounds=known.heldout[: len(in_rounds)], natural=known.natural,
        controls=chosen.controls, control_kinds=chosen.control_kinds(),
        pictures=pictures_of(run, request.references, [*asked.values()], target.image_size),
        clip=load_clip(request.clip, request.clip_pretrained, device=target.device) if request.clip else None,
        notes=_notes(request, works, heldout, known.natural, chosen.note),
    )  # fmt: skip


def _bench(
    run: Run, request: "LocalityRequest", target: PipelineTarget, prompts: Sequence[Prompt],
    natural: tuple[Prompt, ...],
) -> Bench:  # fmt: skip
    """The judge of the audit, who knows each start of a work as that work."""
    encoder = judge_of(
        run, target, descriptor=request.descriptor, sscd_weights=request.sscd_weights, device=target.device
    )
    _, vectors, place = described(run)
    own = {p.id: vectors[place[p.image]] for p in prompts}
    own |= {start_id(p, i): vectors[place[p.image]] for p in prompts for i in range(request.starts)}
    return Bench(
        run=run, encoder=encoder, vectors=own, threshold=threshold_of(run),
        sampling=Sampling(**run.manifest()["settings"]["sampling"]), seeds=tuple(range(request.n_seeds)),
        natural=natural, keep=(),
    )  # fmt: skip


def _attack(request: "LocalityRequest") -> Dori:
    if "start" in request.attack:
        raise InputError("the study itself says where dori starts; leave out its setting start")
    method = build("attack", "dori", dict(request.attack))
    assert isinstance(method, Dori)  # noqa: S101 - the registry gives what was named
    return method


def _localizers(request: "LocalityRequest", target: PipelineTarget, case: Case) -> dict[str, Localizer]:
    if request.rounds and request.prune_with not in request.localizers:
        raise InputError(
            f"expected a localizer of {', '.join(request.localizers)} to prune with, got {request.prune_with}"
        )
    found = {}
    for name, options in request.localizers.items():
        method = build("localizer", name, dict(options))
        if not isinstance(method, Localizer) or method.needs_originals:
            raise InputError(f"expected localizers that look at prompts alone, got {name}; leave it out")
        found[name] = calibrated(method, target, case)
    return found


def _notes(
    request: "LocalityRequest", works: Sequence[Prompt], heldout: Sequence[Prompt], natural: Sequence[Prompt], note: str
) -> tuple[str, ...]:
    said = [note] if note else []
    if len(works) < request.works:
        said.append(f"Only {len(works)} works replicate; {request.works} were asked for.")
    if not heldout:
        said.append("The audit has no held-out works with an original, so there is no control for the searches.")
    if len(natural) < 2:
        said.append("The audit drew fewer than two ordinary prompts, so there are no natural distances.")
    return tuple(said)
