"""One attack on one model with one set of known images: an arm, and its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amnestic.core.errors import InputError
from amnestic.core.records import Rate
from amnestic.core.store import Record
from amnestic.measures.recovery import (
    CurvePoint,
    Hidden,
    Mean,
    best_scores,
    first_steps,
    hidden_table,
    mean_over_works,
    median_step,
    recovery_curve,
    share_above,
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What an attack did with N works and K tries, scored at C kept steps with S starting noises.

    Attributes:
        works: Their N names.
        steps: The C kept steps, ascending from 0.
        scores: Similarity with each work's own original ``(N, K, C, S)``; NaN for tries that were not made.
        loss: ``(K, T + 1, N)``, NaN where nothing was computed.
        gradient: Length of the gradient, likewise.
        stopped: ``(K, N)``; -1 never, -2 not tried.
        forward: Rows through the U-Net ``(K, C, N)``, summed up to each kept step.
        backward: Rows that a gradient flowed back through, likewise.
        threshold: A copy scores above it.
        flags: What the search itself says is wrong with it.
        plain: Scores ``(N, S)`` of the works' own prompts; `None` where step 0 is that.
    """

    works: tuple[str, ...]
    steps: tuple[int, ...]
    scores: Float[Tensor, "N K C S"] = field(repr=False)
    loss: Float[Tensor, "K T N"] = field(repr=False)
    gradient: Float[Tensor, "K T N"] = field(repr=False)
    stopped: Int[Tensor, "K N"] = field(repr=False)
    forward: Float[Tensor, "K C N"] = field(repr=False)
    backward: Float[Tensor, "K C N"] = field(repr=False)
    threshold: float = 0.7
    flags: tuple[str, ...] = ()
    plain: Float[Tensor, "N S"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        n, (k, c) = len(self.works), self.stopped.shape[:1] + (len(self.steps),)
        wrong = [
            name
            for name, shape in (
                ("scores", self.scores.shape[:3] == (n, k, c)),
                ("stopped", self.stopped.shape == (k, n)),
                ("forward", self.forward.shape == (k, c, n)),
                ("backward", self.backward.shape == (k, c, n)),
                ("loss", self.loss.shape[::2] == (k, n)),
                ("gradient", self.gradient.shape == self.loss.shape),
                ("plain", self.plain is None or len(self.plain) == n),
                ("steps", bool(self.steps) and self.steps[0] == 0),
                ("works", n == len(set(self.works)) > 0),
            )
            if not shape
        ]
        if wrong:
            raise InputError(
                f"expected an arm of {n} works, {k} tries and {c} kept steps, the first of them 0; {', '.join(wrong)} "
                "did not fit; build it from one record of an attack"
            )

    @property
    def best(self) -> Float[Tensor, "N C"]:
        """Score of the best image of the best try, by work and kept step."""
        return best_scores(self.scores, steps=self.steps, stopped=self.stopped)

    @property
    def before(self) -> Float[Tensor, "N"]:
        """Score of the best image of a work before the search: of its own prompt, else of what is held at step 0."""
        return self.best[:, 0] if self.plain is None else self.plain.detach().cpu().double().amax(1)

    @property
    def passes(self) -> tuple[float, ...]:
        """Forward and backward rows by kept step that all tries cost a work which never comes back."""
        rows = (self.forward + self.backward).detach().cpu().double().sum(0).amax(1)
        return tuple(rows.tolist())


@dataclass(frozen=True, kw_only=True)
class WorkOutcome:
    """One work of an arm.

    Attributes:
        work: Its name.
        before: Best score before the search.
        after: Best score at any kept step.
        step: First kept step at which it is back, or `None`.
    """

    work: str
    before: float
    after: float
    step: int | None


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """An arm in numbers.

    Attributes:
        works: One outcome per work.
        tries: Searches per work.
        seeds: Starting noises that score an input.
        budget: Steps of a search.
        before: Share of works that come back without a search.
        curve: Rates and means by kept step.
        passes: Passes by kept step that all tries cost a work which never comes back.
        by_median: Share of works whose median image is a copy at some kept step.
        mean_before: Mean best score before the search.
        median_step: First kept step by which half of the works are back, or `None`.
        hidden: How many works are left, step by step.
        forward: Forward rows of the whole arm.
        backward: Backward rows of the whole arm.
        stopped_early: Works whose search an independent judge ended.
    """

    works: tuple[WorkOutcome, ...]
    tries: int
    seeds: int
    budget: int
    before: Rate
    curve: tuple[CurvePoint, ...]
    passes: tuple[float, ...]
    by_median: Rate
    mean_before: Mean
    median_step: int | None
    hidden: tuple[Hidden, ...]
    forward: float
    backward: float
    stopped_early: int


def summary_of(arm: Arm, *, seed: int) -> ArmSummary:
    """An arm in numbers.

    Args:
        arm: The arm.
        seed: Decides the resamples.

    Returns:
        Rates over works; comparable between arms of as many tries, seeds and kept steps.
    """
    best, before = arm.best, arm.before
    first = first_steps(best, arm.steps, arm.threshold)
    median = best_scores(arm.scores, steps=arm.steps, stopped=arm.stopped, over_seeds="median")
    outcomes = zip(arm.works, before.tolist(), best.amax(1).tolist(), first, strict=True)
    return ArmSummary(
        works=tuple(WorkOutcome(work=w, before=b, after=a, step=s) for w, b, a, s in outcomes),
        tries=arm.scores.shape[1], seeds=arm.scores.shape[3], budget=arm.steps[-1],
        before=share_above(before, arm.threshold), passes=arm.passes,
        curve=recovery_curve(best, arm.steps, arm.threshold, seed=seed),
        by_median=share_above(median.amax(1), arm.threshold), mean_before=mean_over_works(before, seed=seed),
        median_step=median_step(first), hidden=hidden_table(first, arm.steps),
        forward=float(arm.forward[:, -1].sum()), backward=float(arm.backward[:, -1].sum()),
        stopped_early=int((arm.stopped >= 0).any(0).sum()),
    )  # fmt: skip


def shared_places(one: Sequence[str], other: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where the works that two arms have in common stand in each.

    Example:
        >>> shared_places(("a", "b", "c"), ("c", "a"))
        ([0, 2], [1, 0])
    """
    at = {work: i for i, work in enumerate(other)}
    shared = [(i, at[work]) for i, work in enumerate(one) if work in at]
    return [i for i, _ in shared], [j for _, j in shared]


def unsearched(arm: Arm) -> tuple[str, ...]:
    """Works all of whose tries met a gradient of exactly zero, and that did not come back.

    Args:
        arm: The arm; NaN stands for steps without a gradient.

    Returns:
        Their names; that these did not come back says nothing.
    """
    zero = (arm.gradient == 0).any(dim=1)
    made = arm.stopped != -2
    hidden = ~(arm.best > arm.threshold).any(dim=1)
    without = (zero | ~made).all(dim=0) & hidden & zero.any(dim=0)
    return tuple(work for work, is_so in zip(arm.works, without.tolist(), strict=True) if is_so)


def loss_ends(loss: Float[Tensor, "K T N"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Loss of each work at the start and at the end of its search, of the try whose loss fell most.

    Formula: means over the first and the last quarter of the steps that were made, since every step draws its own
    noise.

    Args:
        loss: NaN where nothing was computed.

    Returns:
        Start and end ``(N,)``; NaN for works with fewer than two steps.

    Example:
        >>> import torch
        >>> start, end = loss_ends(torch.tensor([[[float("nan")], [4.0], [2.0], [2.0], [1.0]]]))
        >>> start.item(), end.item()
        (4.0, 1.0)
    """
    ends = torch.full((2, loss.shape[2]), torch.nan, dtype=torch.float64)
    for place in range(loss.shape[2]):
        rows = [row[~row.isnan()] for row in loss[:, :, place].detach().cpu().double()]
        quarters = [(row, -(-len(row) // 4)) for row in rows if len(row) > 1]
        found = [torch.stack([row[:some].mean(), row[-some:].mean()]) for row, some in quarters]
        if found:
            ends[:, place] = max(found, key=lambda pair: float(pair[0] - pair[1]))
    return ends[0], ends[1]


def arm_of(record: Record, threshold: float) -> Arm:
    """What the verdict is made of, from the record of an arm; a copy scores above the threshold."""
    data, tensors = record.data, record.tensors
    return Arm(
        works=tuple(data["works"]), steps=tuple(data["steps"]), scores=tensors["scores"], loss=tensors["loss"],
        gradient=tensors["gradient"], stopped=torch.tensor(data["stopped"]), forward=tensors["forward"],
        backward=tensors["backward"], flags=tuple(data["flags"]), threshold=threshold, plain=tensors.get("plain"),
    )  # fmt: skip
