"""One attack on one model with one set of known images, scored: an arm of an experiment."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from amnestic.attacks.starts import natural_distance
from amnestic.audit.tried_inputs import STOPPING_SEEDS, InputJudge
from amnestic.core.attacks import Attack, AttackCase, Attacked, Goal, Tried
from amnestic.core.errors import StoreError
from amnestic.core.protocols import Encoder
from amnestic.core.records import MethodSpec, Prompt, Sampling, digest, plain
from amnestic.core.store import Record, Run
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team
from amnestic.stages.inputs import Progress, silent

STEPS = (0, 1, 5, 10, 25, 50)
STOP_SEEDS = 2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all arms of an experiment share.

    Attributes:
        run: Where records go.
        encoder: The copy descriptor that judges.
        vectors: Its unit vectors of the originals by prompt id, works and held-out ones.
        threshold: A copy scores above it.
        sampling: How images are drawn.
        seeds: Starting noises that score.
        natural: Ordinary prompts.
        memorized: Prompts of memorized works, as starting points.
        keep: Steps at which inputs are scored.
        look_at: Steps at which an independent judge, with other starting noises, may stop the search for a work; none:
            all searches use their whole budget.
        describe: A differentiable descriptor that is not the judge, or `None`.
        describe_id: Which one.
        works_at_once: Known images whose searches share memory.
        batch_size: Images drawn at once.
    """

    run: Run
    encoder: Encoder
    vectors: dict[str, Tensor] = field(repr=False)
    threshold: float
    sampling: Sampling
    seeds: tuple[int, ...]
    natural: tuple[Prompt, ...] = ()
    memorized: tuple[Prompt, ...] = ()
    keep: tuple[int, ...] = STEPS
    look_at: tuple[int, ...] = ()
    describe: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    describe_id: str = ""
    works_at_once: int = 16
    batch_size: int = 16

    def arm(
        self, target: PipelineTarget, method: Attack, goals: Sequence[Goal], *, team: Team | None = None,
        progress: Progress = silent, name: str = "attack",
    ) -> Record | None:  # fmt: skip
        """Attack, draw with what was found, score; or read the record of it.

        An interrupted arm continues with the known images that are still missing.

        Args:
            target: The model.
            method: The attack.
            goals: Known images.
            team: Processes that share the known images; default this one alone.
            progress: Told how many known images are done.
            name: What is shown meanwhile.

        Returns:
            The record: scores ``(N, K, C, S)``, costs, losses, found inputs. `None` in processes other than the main
            one.

        Raises:
            InputError: If the method cannot be used with these goals.
            NotFinite: If a loss, gradient or image is NaN.
        """
        crew, made_by, parents = team or Team(), _identity(method), self._parents(target, goals)
        parts = [goals[i : i + self.works_at_once] for i in range(0, len(goals), self.works_at_once)]
        ids = [self._parents(target, part) for part in parts]
        if not self.run.has("attack-arm", made_by, parents):
            for done, (part, known) in enumerate(crew.share(list(zip(parts, ids, strict=True)))):
                progress(name, done * self.works_at_once, len(goals))
                if not self.run.has("attack-part", made_by, known):
                    self.run.save(self._part(target, method, part, made_by, known))
            crew.wait()
        return crew.on_main(lambda: self._whole(made_by, parents, ids))

    def _parents(self, target: PipelineTarget, goals: Sequence[Goal]) -> tuple[str, ...]:
        asked = digest(
            [[g.prompt, g.image] for g in goals], self.describe_id, self.sampling, self.seeds, self.keep,
            self.look_at, self.natural, self.memorized, self.threshold if self.look_at else None,
        )  # fmt: skip
        return (target.ident.digest, self.encoder.descriptor.id, asked)

    def _whole(self, made_by: MethodSpec, parents: tuple[str, ...], ids: Sequence[tuple[str, ...]]) -> Record:
        record = self.run.load("attack-arm", made_by, parents)
        if record is None:
            parts = [self._read(made_by, known) for known in ids]
            record = Record(
                stage="attack-arm", made_by=made_by, parents=parents, data=_joined_data(parts),
                tensors=_joined_tensors(parts),
            )  # fmt: skip
            self.run.save(record)
            for part in parts:
                self.run.drop(part.id)
        return record

    def _read(self, made_by: MethodSpec, known: tuple[str, ...]) -> Record:
        part = self.run.load("attack-part", made_by, known)
        if part is None:
            raise StoreError(
                f"a process did not write its part of the attack into {self.run.folder}; all processes must see that "
                "folder: issue the command again"
            )
        return part

    def _part(
        self, target: PipelineTarget, method: Attack, goals: Sequence[Goal], made_by: MethodSpec,
        known: tuple[str, ...],
    ) -> Record:  # fmt: skip
        started = time.monotonic()
        judge = InputJudge(
            target=target, encoder=self.encoder, originals=self.vectors, sampling=self.sampling,
            batch_size=self.batch_size,
        )  # fmt: skip
        case = AttackCase(
            goals=tuple(goals), natural=self.natural, memorized=self.memorized, sampling=self.sampling,
            describe=self.describe,
        )  # fmt: skip
        looked: list[int] = []
        look = self._look(judge, goals, looked) if self.look_at else None
        found = method(target, case, keep=self.keep, look_at=self.look_at, look=look)
        searched = time.monotonic() - started
        scores, shown = _scored(judge, goals, found, self.seeds)
        shown |= _plainly(judge, goals, found, self.seeds)
        data = {
            "goals": [g.id for g in goals], "works": [g.prompt.work or g.id for g in goals], "steps": list(found.steps),
            "stopped": [list(row) for row in found.stopped], "flags": list(found.flags),
            "images_looked_at": sum(looked), "rows_looked_at": sum(looked) * self.sampling.rows_per_image,
            "seconds": {"search": searched, "score": time.monotonic() - started - searched},
            "natural_distance": natural_distance(target, self.natural) if len(self.natural) > 1 else None,
            "seeds": list(self.seeds), "threshold": self.threshold, "model": target.ident.digest,
            "texts": None if found.texts is None else [list(row[-1]) for row in found.texts],
        }  # fmt: skip
        tensors = {
            "scores": scores, "loss": found.loss, "gradient": found.gradient, "cond": found.cond[:, -1],
            "moved": (found.cond[:, -1] - found.cond[:, 0]).flatten(2).norm(dim=2),
            "forward": found.cost["forward"], "backward": found.cost["backward"], **shown,
        }  # fmt: skip
        return Record(stage="attack-part", made_by=made_by, parents=known, data=data, tensors=tensors)

    def _look(
        self, judge: InputJudge, goals: Sequence[Goal], looked: list[int]
    ) -> Callable[[Tried, frozenset[int]], frozenset[int]]:
        seeds = tuple(range(STOPPING_SEEDS, STOPPING_SEEDS + STOP_SEEDS))

        def look(tried: Tried, open_places: frozenset[int]) -> frozenset[int]:
            places = sorted(open_places)
            looked.append(len(places) * len(seeds))
            start = None if tried.start is None else tried.start[places]
            scores, _ = judge([goals[i].prompt for i in places], tried.cond[places], seeds, start=start)
            return frozenset(i for i, row in zip(places, scores, strict=True) if float(row.max()) > self.threshold)

        return look


def _identity(method: Attack) -> MethodSpec:
    """Name and settings without those that do not change what is found."""
    spec = method.spec()
    return replace(spec, parameters={k: v for k, v in spec.parameters.items() if k != "batch_size"})


def _scored(
    judge: InputJudge, goals: Sequence[Goal], found: Attacked, seeds: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores ``(N, K, C, S)``, and one image of every goal before and after."""
    prompts = [g.prompt for g in goals]
    scores = torch.full((len(goals), found.cond.shape[0], len(found.steps), len(seeds)), torch.nan)
    shown: dict[str, Tensor] = {}
    for attempt in range(found.cond.shape[0]):
        for place in range(len(found.steps)):
            wanted = [i for i in range(len(goals)) if found.stopped[attempt][i] != -2]
            if not wanted:
                continue
            start = None if found.start is None else found.start[attempt, place, wanted]
            values, images = judge([prompts[i] for i in wanted], found.cond[attempt, place, wanted], seeds, start=start)
            scores[wanted, attempt, place] = values
            if attempt == 0 and place in (0, len(found.steps) - 1):
                name = "image_before" if place == 0 else "image_after"
                shown[name] = torch.stack([torch.from_numpy(image) for image in images])
    return scores, shown


def _plainly(judge: InputJudge, goals: Sequence[Goal], found: Attacked, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Scores ``(N, S)`` of the goals' own prompts; nothing where every try starts there, since step 0 says it."""
    own = judge.target.encode([g.prompt.prompt for g in goals]).float().cpu()
    starts = found.cond[:, 0].float().cpu()
    like = found.start is None and starts.shape[1:] == own.shape
    if like and torch.allclose(starts, own.expand_as(starts), atol=1e-4):
        return {}
    return {"plain": judge([g.prompt for g in goals], own, seeds)[0]}


def _joined_data(parts: Sequence[Record]) -> dict[str, Any]:
    first = dict(parts[0].data)
    for name in ("goals", "works"):
        first[name] = [one for part in parts for one in part.data[name]]
    first["flags"] = list(dict.fromkeys(flag for part in parts for flag in part.data["flags"]))
    for name in ("stopped", "texts"):
        if first[name] is not None:
            first[name] = [[one for p in parts for one in p.data[name][k]] for k in range(len(first[name]))]
    for name in ("images_looked_at", "rows_looked_at"):
        first[name] = sum(p.data[name] for p in parts)
    first["seconds"] = {k: round(sum(p.data["seconds"][k] for p in parts), 1) for k in first["seconds"]}
    return plain(first)  # type: ignore[no-any-return]


BY_GOAL = {
    "scores": 0, "plain": 0, "loss": 2, "gradient": 2, "cond": 1, "moved": 1, "forward": 2, "backward": 2,
    "image_before": 0, "image_after": 0,
}  # fmt: skip


def _joined_tensors(parts: Sequence[Record]) -> dict[str, Tensor]:
    there = {name: axis for name, axis in BY_GOAL.items() if all(name in p.tensors for p in parts)}
    return {name: torch.cat([p.tensors[name] for p in parts], dim=axis) for name, axis in there.items()}
