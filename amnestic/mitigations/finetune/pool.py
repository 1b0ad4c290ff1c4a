"""Conditionings under which a model must not draw an image: cheap adversarial ones, moved prompts, noise, others."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from amnestic.core.denoising import NoisedRows, denoising_loss
from amnestic.core.finetuning import Lesson, Part, Trainee
from amnestic.core.seeds import generator
from amnestic.core.target import Target
from amnestic.mitigations.finetune.errors import drawn_index

KINDS = ("prompt", "adversarial", "near", "noise", "other", "empty")
STARTS = ("prompt", "noise", "other")


def drawn_kind(shares: Mapping[str, float], rng: torch.Generator) -> str:
    """One of `KINDS`, each as often as its share says."""
    weights = torch.tensor([shares[kind] for kind in KINDS], dtype=torch.float64)
    return KINDS[int(torch.multinomial(weights, 1, generator=rng))]


def text_of(kind: str, lesson: Lesson, place: int, rng: torch.Generator) -> str:
    """The text that a conditioning of a kind begins with: the image's own prompt, another's, or none."""
    own = lesson.forget[place].prompt
    if kind != "other":
        return "" if kind == "empty" else own.prompt
    pool = [*lesson.natural, *lesson.memorized, *(g.prompt for g in lesson.forget)]
    others = [p for p in pool if p.id != own.id and (not p.work or p.work != own.work)]
    return others[drawn_index(len(others), rng)].prompt if others else ""


def moved(
    point: Float[Tensor, "L W"], kind: str, searched: Float[Tensor, "P L W"] | None, unit: float,
    reach: tuple[float, float], rng: torch.Generator,
) -> Float[Tensor, "L W"]:  # fmt: skip
    """A conditioning of a kind, from that of its text.

    Args:
        point: Conditioning of the text.
        kind: One of `KINDS`.
        searched: Adversarial embeddings of the image; without any, the text's own stands for them.
        unit: Median distance of ordinary prompts.
        reach: Least and largest distance of ``near`` in that unit; drawn uniformly in its logarithm.
        rng: On the CPU.

    Returns:
        Conditioning on the device and in the precision of `point`.
    """
    if kind == "noise":
        return torch.randn(point.shape, generator=rng).to(point)
    if kind == "adversarial" and searched is not None:
        return searched[drawn_index(len(searched), rng)].to(point)
    if kind != "near":
        return point
    low, high = (math.log(r) for r in reach)
    radius = unit * math.exp(low + (high - low) * float(torch.rand((), generator=rng)))
    away = torch.randn(point.shape, generator=rng)
    there: Tensor = point + (radius * away / away.norm()).to(point)
    return there


def natural_unit(target: Target, lesson: Lesson) -> float:
    """Median Euclidean distance between conditionings of ordinary prompts; without two, their length by chance.

    Formula: ``median |y_i - y_j|``, else ``sqrt(2 L W)``: the distance of two draws from N(0, I).
    """
    if len(lesson.natural) < 2:
        return math.sqrt(2 * target.encode([""])[0].numel())
    rows = torch.cat([target.encode([p.prompt]).flatten(1).float().cpu() for p in lesson.natural])
    return float(torch.pdist(rows).median())


def first_points(target: Target, lesson: Lesson, place: int, size: int, seed: int) -> Float[Tensor, "P L W"]:
    """Where searches for an image begin: its prompt, noise, another's prompt, and again; float32 on the CPU."""
    found = []
    for slot in range(size):
        kind = STARTS[slot % len(STARTS)]
        rng = generator(seed, "finetune", "start", lesson.forget[place].id, str(slot))
        point = target.encode([text_of(kind, lesson, place, rng)])[0].float().cpu()
        found.append(moved(point, kind, None, 1.0, (1.0, 1.0), rng))
    return torch.stack(found)


def searched(
    trainee: Trainee, rows: NoisedRows, points: Float[Tensor, "P L W"], draws: int, rate: float, weighting: str
) -> Float[Tensor, "P L W"]:
    """One step of a search down the denoising loss of originals: every entry moves by `rate`, in its gradient's sign.

    Formula: ``y - rate sign(grad_y sum_d l_d)``: what Adam does in its first step, which needs no memory of others.

    Args:
        trainee: The model as it is now.
        rows: `draws` noised originals for each point, one point's after the other's.
        points: Conditionings on the device.
        draws: Rows per point.
        rate: Length of the step in each entry.
        weighting: Of the squared error.

    Returns:
        The points after the step.

    Source:
        Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", 2015.
    """
    held = points.detach().clone().requires_grad_()
    with trainee.at_rest(), torch.enable_grad():
        loss = denoising_loss(trainee, rows, held.repeat_interleave(draws, dim=0), weighting=weighting)
        (slope,) = torch.autograd.grad(loss.sum() * rows.x[0].numel(), held)  # large enough for half precision
    return points - rate * slope.sign()


def drawn_conditions(
    trainee: Target, lesson: Lesson, part: Part, places: Sequence[int], kinds: Sequence[str],
    kept: Mapping[str, Tensor], reach: tuple[float, float],
) -> Float[Tensor, "n L W"]:  # fmt: skip
    """Conditioning of each forget row of a part, float32.

    Args:
        trainee: The model, for its text encoder.
        lesson: Prompts to draw from.
        part: The rows.
        places: Whose rows they are.
        kinds: Kind of each row's conditioning.
        kept: ``pool:ID``, adversarial embeddings of an image, and ``unit``, where they are known.
        reach: See `moved`.
    """
    rngs = [part.rng("condition", row) for row in part.forget]
    texts = [text_of(kind, lesson, place, rng) for kind, place, rng in zip(kinds, places, rngs, strict=True)]
    points = trainee.encode(texts).float()
    unit = float(kept["unit"]) if "unit" in kept else natural_unit(trainee, lesson)
    return torch.stack([
        moved(points[i], kinds[i], kept.get(f"pool:{lesson.forget[place].id}"), unit, reach, rngs[i])
        for i, place in enumerate(places)
    ])  # fmt: skip
