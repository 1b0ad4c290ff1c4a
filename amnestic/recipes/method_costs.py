"""How many rows a method sends through the U-Net, from its settings alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from amnestic.core.attacks import Attack, Goal
from amnestic.core.finetuning import FineTuning, Lesson
from amnestic.core.methods import Localizer
from amnestic.core.records import Prompt, Sampling

EXACT, AT_LEAST, AT_MOST, ABOUT = "", "at least", "at most", "about"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows through a U-Net, before they are computed.

    Attributes:
        forward: Rows that are computed; `None`: not known.
        backward: Those of them through which a gradient flows back.
        bound: What the numbers are: exact where empty, ``at least``, ``at most``, or ``about`` where parts of them are
            bounds in both directions.
    """

    forward: int | None
    backward: int | None
    bound: str = EXACT

    def __add__(self, other: "Rows") -> "Rows":
        """Both one after the other; not known where one of them is not."""
        if self.forward is None or self.backward is None or other.forward is None or other.backward is None:
            return UNKNOWN
        if not other.forward:
            return self
        if not self.forward:
            return other
        return Rows(
            forward=self.forward + other.forward, backward=self.backward + other.backward,
            bound=_together(self.bound, other.bound),
        )  # fmt: skip

    def times(self, n: int) -> "Rows":
        """So many times the same.

        Example:
            >>> Rows(forward=8, backward=2).times(3)
            Rows(forward=24, backward=6, bound='')
        """
        if self.forward is None or self.backward is None:
            return UNKNOWN
        return Rows(forward=self.forward * n, backward=self.backward * n, bound=self.bound)

    def bounded(self, bound: str) -> "Rows":
        """The same as a bound."""
        return self if not self.forward else replace(self, bound=_together(self.bound, bound))


def _together(one: str, other: str) -> str:
    known = {one, other} - {EXACT}
    return ABOUT if len(known) > 1 else next(iter(known), EXACT)


UNKNOWN, NONE = Rows(forward=None, backward=None), Rows(forward=0, backward=0)


def both(rows: int) -> Rows:
    """Rows forward that a gradient flows back through."""
    return Rows(forward=rows, backward=rows)


def forward(rows: int) -> Rows:
    """Rows forward only."""
    return Rows(forward=rows, backward=0)


def drawing_rows(images: int, how: Sampling, steps: int | None = None) -> Rows:
    """Drawing images.

    Formula: ``images * steps * g`` with g = 2 under guidance and 1 without, as long as the scheduler asks the model
    once a step, which those of second order do not.

    Args:
        images: How many.
        how: How they are drawn.
        steps: Steps that are made; default all.

    Example:
        >>> drawing_rows(10, Sampling(num_inference_steps=50, guidance_scale=7.5)).forward
        1000
    """
    made = how.num_inference_steps if steps is None else min(steps, how.num_inference_steps)
    return forward(images * made * (2 if how.guidance_scale > 1 else 1))


def locate_rows(method: Localizer, *, memorized: int, controls: int, seeds: int, how: Sampling) -> Rows:
    """What a localizer costs.

    Formulas with m memorized prompts, c controls, s seeds, T steps, g as in `drawing_rows`: ``wanda-subspace``
    ``(m + 1) s tau g`` (``2 min(m, c) s tau g`` against controls); ``activation-contrast`` ``(m + c) s tau g``;
    ``gradient-attribution`` ``(m + c) n_timesteps n_noises`` forward and backward; ``value-zscore`` and
    ``random-units`` nothing; ``nemo`` at least ``m n_seeds``, and ``c n_seeds`` where the threshold is calibrated, as
    its search goes on until an image is forgotten.

    Args:
        method: The localizer.
        memorized: Prompts it is given.
        controls: Others.
        seeds: Starting noises per prompt.
        how: How the model draws.

    Returns:
        The rows; not known for methods that are not listed here.
    """
    name, has = method.spec().name, method.spec().parameters
    if not memorized or name in ("value-zscore", "random-units"):
        return NONE
    if name in ("wanda-subspace", "activation-contrast"):
        share, tau = has.get("tau_share"), int(has["tau"])
        steps = tau if share is None else max(1, round(share * how.num_inference_steps))
        prompts = memorized + controls
        if name == "wanda-subspace":
            prompts = memorized + 1 if has["contrast"] == "empty" else 2 * min(memorized, controls)
        return drawing_rows(prompts * seeds, how, steps)
    if name == "gradient-attribution":
        return both((memorized + controls) * int(has["n_timesteps"]) * int(has["n_noises"]))
    if name == "nemo":
        asked = memorized + (controls if has["threshold"] is None else 0)
        return forward(asked * int(has["n_seeds"])).bounded(AT_LEAST)
    return UNKNOWN


def attack_rows(method: Attack, how: Sampling) -> Rows:
    """What one try of an attack's search costs for one known image, before anything is drawn.

    Formulas a step with d draws: ``dori``, ``auto-dori`` (d = 8) and ``hard-prompt`` d forward and backward;
    ``gcg-prompt`` d forward and backward and at most ``candidates d`` forward; ``random-embeddings`` and
    ``random-tokens`` ``(candidates + 1) d`` forward; ``null-text`` ``iterations T`` forward (with ``adamw`` one more a
    timestep, the others backward as well).

    Args:
        method: The attack.
        how: How the model draws.

    Returns:
        The rows of all its steps; not known for methods that are not listed here.
    """
    name, has = method.spec().name, method.spec().parameters
    draws = int(has.get("draws", 8))
    per_step: Mapping[str, Callable[[], Rows]] = {
        "dori": lambda: both(draws), "auto-dori": lambda: both(draws), "hard-prompt": lambda: both(draws),
        "gcg-prompt": lambda: both(draws) + forward(int(has["candidates"]) * draws).bounded(AT_MOST),
        "random-embeddings": lambda: forward((int(has["candidates"]) + 1) * draws),
        "random-tokens": lambda: forward((int(has["candidates"]) + 1) * draws),
        "null-text": lambda: _null_text(has, how),
    }  # fmt: skip
    return per_step.get(name, lambda: UNKNOWN)().times(method.steps)


def starts_elsewhere(method: Attack) -> bool:
    """Whether a search begins at something else than the image's own prompt, which is then drawn and scored as well."""
    start = method.spec().parameters.get("start", "prompt")
    return method.searches == "noise" or method.spec().name == "auto-dori" or start != "prompt"


def _null_text(has: Mapping[str, Any], how: Sampling) -> Rows:
    made = int(has["iterations"]) * how.num_inference_steps
    return forward(made) if has["solver"] == "iterate" else both(made) + forward(how.num_inference_steps)


def finetune_rows(method: FineTuning, attack: Attack, *, works: int, how: Sampling) -> Rows:
    """What fine-tuning costs, without the drawing of surrogates.

    Formula: ``steps (forget_rows + retain_rows)`` forward and backward; ``adversarial`` adds a search of `inner_steps`
    steps for every image whose embeddings are made anew; ``guarded-retrack`` ``works refreshes inner_steps draws``
    forward and backward, and rows of the model before. Others may add rows of the model before: at least.

    Args:
        method: The way of fine-tuning.
        attack: Searches adversarial embeddings, where the method asks for one.
        works: Images to forget.
        how: How the model draws.
    """
    name, has = method.spec().name, method.spec().parameters
    lesson = Lesson(forget=(_NOBODY,) * works)
    steps = method.total_steps(lesson)
    forget = 0 if name == "retain-only" else method.forget_rows
    learning = both(steps * (forget + method.retain_rows))
    searched = sum(len(method.stale(step, lesson)) for step in range(steps)) if works else 0
    if name in ("retain-only", "retrack", "adversarial-without-embeddings"):
        return learning
    if name == "adversarial":
        one = replace(attack, steps=int(has["inner_steps"] or attack.steps))
        return learning + attack_rows(one, how).times(searched * int(has["searches"]) * one.tries)
    if name == "guarded-retrack":
        frozen = method.retain_rows if has["retain_from"] == "frozen" else 0
        inner = both(searched * int(has["inner_steps"]) * int(has["draws"]))
        return (learning + inner + forward(steps * frozen)).bounded(AT_LEAST)
    return learning.bounded(AT_LEAST)


NOTHING: Any = None
_NOBODY = Goal(prompt=Prompt(id="anybody", prompt=""), original=NOTHING)
"""Stands for an image where only their number matters."""
