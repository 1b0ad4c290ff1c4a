"""Where a search in the space of conditionings begins, how far it may go, and which tokens it may move."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amnestic.core.attacks import AttackCase, Goal
from amnestic.core.errors import InputError
from amnestic.core.records import Prompt
from amnestic.core.seeds import generator
from amnestic.core.target import Target

MOST_NATURAL = 256
STARTS = ("prompt", "noise", "other-prompt", "other-memorized")
TEXT_STARTS = ("prompt", "empty", "other-prompt", "other-memorized")


def starting_points(
    target: Target, case: AttackCase, kind: str, *, seed: int, attempt: int = 0
) -> Float[Tensor, "N L W"]:
    """One starting point per goal, float32.

    Args:
        target: The model.
        case: Goals, and prompts to begin with.
        kind: ``prompt`` (the goal's own), ``noise`` (N(0, I)), ``other-prompt`` (of an image that is not memorized)
            or ``other-memorized``.
        seed: Root seed of what is drawn.
        attempt: Which try; others draw others.

    Returns:
        Conditioning on the model's device.

    Raises:
        InputError: If the case has no prompt of the kind.
    """
    if kind != "noise":
        return target.encode(starting_texts(case, kind, seed=seed, attempt=attempt)).float()
    like = target.encode([""])
    names = [("start", kind, goal.id, str(attempt)) for goal in case.goals]
    drawn = [torch.randn(like.shape[1:], generator=generator(seed, *name)) for name in names]
    return torch.stack(drawn).to(like.device)


def starting_texts(case: AttackCase, kind: str, *, seed: int, attempt: int = 0) -> tuple[str, ...]:
    """One prompt per goal to start at, for searches over real prompts.

    Args:
        case: Goals, and prompts to begin with.
        kind: One of `TEXT_STARTS`; ``empty`` is the empty prompt, the others are those of `starting_points`.
        seed: Root seed of what is drawn.
        attempt: Which try; others draw others.

    Returns:
        N texts.

    Raises:
        InputError: If the case has no prompt of the kind.
    """
    if kind in ("prompt", "empty"):
        return tuple(goal.prompt.prompt if kind == "prompt" else "" for goal in case.goals)
    pool = case.natural if kind == "other-prompt" else case.memorized
    return tuple(
        _other(goal, pool, kind, generator(seed, "start", kind, goal.id, str(attempt))).prompt for goal in case.goals
    )


def _other(goal: Goal, pool: Sequence[Prompt], kind: str, rng: torch.Generator) -> Prompt:
    others = [p for p in pool if p.id != goal.id and (not p.work or p.work != goal.prompt.work)]
    if not others:
        raise InputError(f"start {kind} needs a prompt other than that of {goal.id}, got none; use another start")
    return others[int(torch.randint(len(others), (1,), generator=rng))]


def natural_distance(target: Target, prompts: Sequence[Prompt]) -> float:
    """Median Euclidean distance between the conditionings of ordinary prompts: one unit of a radius.

    Args:
        target: The model.
        prompts: At least two ordinary prompts; the first 256 are taken.

    Returns:
        A distance in the space of ``(L, W)`` flattened; comparable within one text encoder.

    Raises:
        InputError: If there are fewer than two.
    """
    if len(prompts) < 2:
        raise InputError(
            f"a radius is told in distances of ordinary prompts, expected at least two, got {len(prompts)}"
        )
    rows = torch.cat([target.encode([p.prompt]).flatten(1).float().cpu() for p in prompts[:MOST_NATURAL]])
    return float(torch.pdist(rows).median())


def within(point: Float[Tensor, "N L W"], centre: Float[Tensor, "N L W"], radius: float) -> Float[Tensor, "N L W"]:
    """Points drawn back into a ball around their centre where they left it."""
    away = (point - centre).flatten(1)
    shrink = (radius / away.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
    inside: Tensor = centre + (point - centre) * shrink[:, None, None]
    return inside


def free_tokens(length: int, which: str) -> Bool[Tensor, "L"]:
    """Tokens that a search may move.

    Args:
        length: Of the conditioning.
        which: ``all``, ``not-first`` (the begin token stays), or a range such as ``1:9``.

    Returns:
        A mask over tokens.

    Raises:
        ValueError: If it names no token.

    Example:
        >>> free_tokens(5, "1:3").tolist()
        [False, True, True, False, False]
    """
    mask = torch.zeros(length, dtype=torch.bool)
    begin, colon, end = {"all": ":", "not-first": "1:"}.get(which, which).partition(":")
    if not colon or not all(part == "" or part.lstrip("-").isdecimal() for part in (begin, end)):
        raise ValueError(f"free_tokens must be all, not-first or a range such as 1:9, got {which}")
    mask[slice(int(begin) if begin else None, int(end) if end else None)] = True
    if not mask.any():
        raise ValueError(f"free_tokens {which} names none of {length} tokens")
    return mask
