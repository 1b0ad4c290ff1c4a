"""Adversarial fine-tuning against embeddings that bring images back (Kowalczuk et al., ICML 2026)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.attacks import Attack
from amnestic.core.errors import InputError
from amnestic.core.finetuning import Lesson, Part, Trainee
from amnestic.core.registry import register
from amnestic.core.seeds import generator, seed_for
from amnestic.core.target import Target
from amnestic.mitigations.finetune.adversarial_without_embeddings import AdversarialWithoutEmbeddings

PERIODS = ("visits", "epochs", "steps")


@register
@dataclass(frozen=True, kw_only=True)
class Adversarial(AdversarialWithoutEmbeddings):
    """Teaches surrogates under the very embeddings that bring memorized images back, made anew as the model learns.

    Formula: ``L = L_DM + L_Adv``: the denoising loss of ordinary pairs under their captions, and that of surrogates
    under ``y_adv``, found by an attack on the current weights; all weights of the U-Net learn.

    Published: the sum of both losses, 50 steps of the inner search, 5 epochs. Not published, hence settings: how often
    embeddings are made anew, where searches start, how many embeddings an image has, optimiser and batches.

    Cost: ``steps (forget_rows + retain_rows)`` rows forward and backward to learn, and for every image whose embeddings
    are made anew `searches` times the attack: tries x `inner_steps` x draws with `Dori`, 400 with its defaults. Such
    images are, for N in all, about ``forget_rows steps / refresh_every`` with ``visits``, and N at every
    `refresh_every`-th epoch or step with ``epochs`` or ``steps``. Surrogates are drawn before, once.

    Pitfalls: The defaults search at every visit, up to ``400 * 8 * 400`` rows, 1,280,000. With ``embeddings_kept=1``
    only the last of several searches, restarts or members of an ensemble is used, and all are paid. On the testbed
    (2,300 rows an image, searches every 20 of 100 steps) 50 steps of `Dori` brought back .042 of 24 works and as many
    held-out ones, but ``t_low=0.5`` 4 of 8 that `Dori` had not: training covers the searches that it is trained with.

    Attributes:
        refresh_in: What `refresh_every` counts. ``visits``: an image's embeddings are made when it comes up, against
            the weights of that step. ``epochs``: those of all images at once, at the beginning of an epoch.
            ``steps``: those of all images at once, every so many steps.
        refresh_every: How often.
        starts: Where searches start, one drawn each time: ``prompt``, ``noise``, ``other-prompt`` or
            ``other-memorized``; ignored by attacks without a setting ``start``.
        inner_steps: Steps of a search; `None`: as many as the attack has.
        searches: Embeddings made for an image each time.
        embeddings_kept: The latest so many embeddings of an image are used.
        prompt_share: Share of rows under the image's own prompt instead of an adversarial embedding.

    Source:
        Kowalczuk, Hintersdorf, Struppek, Kersting, Dziedzic, Boenisch, "Finding DoRI", ICML 2026, arXiv 2507.16880.
    """

    needs_attack: ClassVar[bool] = True
    refresh_in: str = "visits"
    refresh_every: int = 1
    starts: tuple[str, ...] = ("prompt", "noise", "other-prompt")
    inner_steps: int | None = None
    searches: int = 1
    embeddings_kept: int = 1
    prompt_share: float = 0.25

    def __post_init__(self) -> None:
        """Refuse settings without meaning; starting points are the attack's to refuse."""
        AdversarialWithoutEmbeddings.__post_init__(self)
        if self.refresh_in not in PERIODS:
            raise ValueError(f"expected {', '.join(PERIODS)}; got {self.refresh_in}")
        if min(self.refresh_every, self.searches, self.embeddings_kept, self.inner_steps or 1) < 1 or not self.starts:
            raise ValueError("refresh_every, searches, embeddings_kept and inner_steps must be positive, starts given")
        if not 0 <= self.prompt_share <= 1:
            raise ValueError(f"expected prompt_share in [0, 1], got {self.prompt_share}")

    def stale(self, step: int, lesson: Lesson) -> tuple[int, ...]:
        """Images whose embeddings are made before a step."""
        n, first = len(lesson.forget), step * self.forget_rows
        if self.refresh_in == "steps":
            return tuple(range(n)) if step % self.refresh_every == 0 else ()
        rows = range(self.forget_rows)
        visits = [(first + row) // n for row in rows]
        if self.refresh_in == "epochs":
            begun = [e for row, e in zip(rows, visits, strict=True) if (first + row) % n == 0]
            return tuple(range(n)) if any(e % self.refresh_every == 0 for e in begun) else ()
        places = self.goals_of(lesson, Part(step=step, forget=tuple(rows), seed=self.seed))
        due = [place for place, visit in zip(places, visits, strict=True) if visit % self.refresh_every == 0]
        return tuple(dict.fromkeys(due))

    def refresh(
        self, step: int, trainee: Trainee, frozen: Target, lesson: Lesson, places: Sequence[int],
        kept: Mapping[str, Tensor],
    ) -> Mapping[str, Tensor]:  # fmt: skip
        """Attack the current weights; the latest embeddings of an image stay."""
        made: dict[str, list[Tensor]] = {_key(lesson, place): [] for place in places}
        for one in range(self.searches):
            by_start: dict[str, list[int]] = {}
            for place in places:
                by_start.setdefault(self._start(step, one, lesson.forget[place].id), []).append(place)
            for start, some in sorted(by_start.items()):
                attack = self._attack(lesson, start, seed_for(self.seed, "adversarial", str(step), str(one)))
                with trainee.at_rest():
                    found = attack(trainee, lesson.case(some)).cond[:, -1]
                for column, place in enumerate(some):
                    made[_key(lesson, place)] += list(found[:, column])
        new = {key: torch.stack(some) for key, some in made.items()}
        return {
            key: torch.cat([kept[key], some] if key in kept else [some])[-self.embeddings_kept :].clone()
            for key, some in new.items()
        }

    def conditions(
        self, trainee: Target, lesson: Lesson, part: Part, places: Sequence[int], kept: Mapping[str, Tensor]
    ) -> Float[Tensor, "n L W"]:
        """Conditioning of each forget row: one of the goal's adversarial embeddings, or its own prompt."""
        own = super().conditions(trainee, lesson, part, places, kept).float()
        found = []
        for row, place, prompt in zip(part.forget, places, own, strict=True):
            rng, some = part.rng("condition", row), kept[_key(lesson, place)]
            plain = float(torch.rand((), generator=rng)) < self.prompt_share
            which = int(torch.randint(len(some), (), generator=rng))
            found.append(prompt if plain else some[which].to(prompt))
        return torch.stack(found)

    def _start(self, step: int, one: int, name: str) -> str:
        rng = generator(self.seed, "adversarial", "start", str(step), str(one), name)
        return self.starts[int(torch.randint(len(self.starts), (), generator=rng))]

    def _attack(self, lesson: Lesson, start: str, seed: int) -> Attack:
        """The attack of the lesson with another start and fresh draws, where it has such settings."""
        attack = lesson.attack
        if attack is None:
            raise InputError("adversarial fine-tuning needs an attack, got none; give one")
        wanted: dict[str, object] = {"start": start, "seed": seed, "steps": self.inner_steps or attack.steps}
        known = {f.name for f in fields(attack)}
        varied: Attack = replace(attack, **{k: v for k, v in wanted.items() if k in known})  # type: ignore[arg-type]
        return varied


def _key(lesson: Lesson, place: int) -> str:
    return f"embedding:{lesson.forget[place].id}"
