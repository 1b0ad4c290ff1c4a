"""What an attack is: a search for an input that brings a known image out, judged by the base and never by itself."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, final

from amnestic.core.counted import Cost, Counted
from amnestic.core.errors import InputError, NotFinite
from amnestic.core.methods import Method
from amnestic.core.records import MethodSpec, Prompt, Sampling

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from amnestic.core.target import Target


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One known image that an attack tries to bring out.

    Attributes:
        prompt: Its ordinary prompt; the id names every random draw made for it.
        original: Its latents ``(C, H, W)``, scaled as the U-Net sees them.
        image: Hash of the picture, which tells it from others wherever its latents are computed.
    """

    prompt: Prompt
    original: "Tensor" = field(repr=False, compare=False)
    image: str = ""

    @property
    def id(self) -> str:
        """The id of the prompt."""
        return self.prompt.id


@dataclass(frozen=True, kw_only=True)
class AttackCase:
    """What an attack is given.

    Attributes:
        goals: N known images.
        natural: Ordinary prompts of images that are not memorized: starting points, and the unit of distance.
        memorized: Prompts of other memorized images: starting points.
        sampling: How the model draws.
        describe: From pictures ``(N, 3, H, W)`` in [0, 1] to unit vectors ``(N, D)``, differentiable; never the judge,
            nor anything that shares weights with it. `None`: no such descriptor is at hand.
    """

    goals: tuple[Goal, ...]
    natural: tuple[Prompt, ...] = ()
    memorized: tuple[Prompt, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    describe: "Callable[[Tensor], Tensor] | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a search holds after one step: one input per goal.

    Attributes:
        cond: Conditioning ``(N, L, W)``.
        loss: What the search minimised in this step, ``(N,)``; NaN before the first.
        gradient: Length of its gradient, ``(N,)``; NaN where none was computed.
        start: Starting noise ``(N, C, H, W)`` that belongs to the input, or `None`: any will do.
        texts: Real prompts that the conditioning is made of, or `None`.
    """

    cond: 'Float[Tensor, "N L W"]'
    loss: 'Float[Tensor, "N"]'
    gradient: 'Float[Tensor, "N"]'
    start: "Tensor | None" = None
    texts: tuple[str, ...] | None = None


Search = Generator[Tried, "frozenset[int]", None]
"""Yields what it holds at step 0 (nothing searched yet), 1, 2, ...; is sent the places of goals to leave alone."""

Look = Callable[["Tried", "frozenset[int]"], "frozenset[int]"]
"""An independent judge: from what is held and the places still searched to the places that came back."""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What an attack found, before anybody judged it.

    Attributes:
        goals: Ids of the N goals.
        made_by: The attack with its settings.
        steps: The C steps at which inputs were kept, ascending; the first is 0.
        cond: Inputs ``(K, C, N, L, W)`` of K tries, float32 on the CPU.
        loss: ``(K, T + 1, N)`` for T steps; NaN where a goal was left alone.
        gradient: Length of the gradient, likewise.
        stopped: By try and goal: step at which the independent judge called it back; -1 where it never did, -2 where
            an earlier try had brought the goal back, so that this one was not made.
        cost: Rows that passed through the U-Net, by try, kept step and goal: forward and backward.
        start: Starting noise ``(K, C, N, ...)`` that belongs to them, or `None`.
        texts: Real prompts by try, kept step and goal, or `None`.
        flags: Sentences on why the outcome should not be trusted.
    """

    goals: tuple[str, ...]
    made_by: MethodSpec
    steps: tuple[int, ...]
    cond: 'Float[Tensor, "K C N L W"]' = field(repr=False)
    loss: 'Float[Tensor, "K T N"]' = field(repr=False)
    gradient: 'Float[Tensor, "K T N"]' = field(repr=False)
    stopped: tuple[tuple[int, ...], ...]
    cost: "Mapping[str, Tensor]" = field(repr=False)
    start: "Tensor | None" = field(default=None, repr=False)
    texts: tuple[tuple[tuple[str, ...], ...], ...] | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attack(Method):
    """Searches inputs that bring known images out; says nothing about whether they do.

    Attributes:
        steps: Budget per try.
    """

    family: ClassVar[str] = "attack"
    searches: ClassVar[str] = "embedding"
    """What it varies: ``embedding``, ``prompt`` or ``noise``."""
    uses_gradient: ClassVar[bool] = True
    steps: int = 50

    @property
    def tries(self) -> int:
        """How many searches are made per goal; the worst counts, for works and controls alike."""
        return 1

    def by_chance(self) -> "Attack | None":
        """The control of as many tries that spends at least as many passes, without a gradient; `None` without one."""
        return None

    @abstractmethod
    def search(self, target: "Target", case: AttackCase, attempt: int) -> Search:
        """The search itself, for all goals at once.

        Args:
            target: The model; its weights need no gradient.
            case: Goals and starting points.
            attempt: Which try, from 0.

        Yields:
            Before the first step and after every step what is held for all N goals; those left alone stay as they are.
        """

    @final
    def __call__(
        self, target: "Target", case: AttackCase, *, keep: Sequence[int] = (), look_at: Sequence[int] = (),
        look: Look | None = None,
    ) -> Attacked:  # fmt: skip
        """Search within the budget, and keep what is held at some steps.

        Args:
            target: The model; unchanged afterwards.
            case: Goals and starting points; N goals share the memory of a batch, whatever their number.
            keep: Steps whose inputs are kept; 0 and the last always are.
            look_at: Steps at which `look` is asked.
            look: The independent judge, for early stops; `None` searches to the end.

        Returns:
            Inputs at the kept steps, with what they cost.

        Raises:
            InputError: If no goal is given, or a goal's latents have another shape than the model's.
            NotFinite: If a loss or gradient is NaN or infinite.
        """
        _check(target, case)
        kept = sorted({0, self.steps, *(s for s in keep if 0 <= s <= self.steps)})
        tries: list[_Try] = []
        back: frozenset[int] = frozenset()
        for attempt in range(self.tries):
            counted = Counted(target)
            one = _Try(self.steps, len(case.goals), kept, left=back)
            search = self.search(counted, case, attempt)
            one.follow(search, counted, look_at=frozenset(look_at), look=look, name=target.ident.name)
            tries.append(one)
            back |= one.back
        return _united(self, case, kept, tries)


class _Try:
    """One search, followed step by step."""

    def __init__(self, steps: int, n: int, kept: Sequence[int], *, left: frozenset[int]) -> None:
        import torch

        self.steps, self.kept, self.left, self.back = steps, kept, left, frozenset[int]()
        self.stopped = [-2 if i in left else -1 for i in range(n)]
        self.held: list[Tried] = []
        self.loss, self.gradient = (torch.full((steps + 1, n), float("nan")) for _ in range(2))
        self.cost = {kind: torch.zeros(len(kept), n) for kind in ("forward", "backward")}
        self._spent = {kind: torch.zeros(n) for kind in self.cost}

    def follow(
        self, search: Search, counted: Counted, *, look_at: frozenset[int], look: Look | None, name: str
    ) -> None:
        """Take every step of the budget, or fewer when the judge has seen enough."""
        tried, asleep, before = next(search), self.left, Cost()
        for step in range(self.steps + 1):
            before = self._note(step, tried, asleep, counted.cost, before, name)
            if look is not None and step in look_at and len(asleep) < len(self.stopped):
                came = look(tried, frozenset(range(len(self.stopped))) - asleep)
                for place in came:
                    self.stopped[place] = step
                self.back, asleep = self.back | came, asleep | came
            if step < self.steps:
                tried = tried if len(asleep) == len(self.stopped) else search.send(asleep)
        search.close()

    def _note(self, step: int, tried: Tried, asleep: frozenset[int], cost: Cost, before: Cost, name: str) -> Cost:
        awake = [i for i in range(len(self.stopped)) if i not in asleep]
        if step and awake:
            self._require_finite(tried, awake, name)
            self.loss[step, awake] = tried.loss.detach().float().cpu()[awake]
            self.gradient[step, awake] = tried.gradient.detach().float().cpu()[awake]
        for kind, spent in self._spent.items():  # goals share the rows of a step evenly
            spent[awake] += (getattr(cost, kind) - getattr(before, kind)) / max(len(awake), 1)
            if step in self.kept:
                self.cost[kind][self.kept.index(step)] = spent
        if step in self.kept:
            self.held.append(tried)
        return cost

    def _require_finite(self, tried: Tried, awake: Sequence[int], name: str) -> None:
        if not bool(tried.loss[list(awake)].isfinite().all() and tried.cond.isfinite().all()):
            raise NotFinite(
                f"the search on {name} came to NaN or infinity; use --dtype float32, or a smaller learning_rate"
            )


def _check(target: "Target", case: AttackCase) -> None:
    if not case.goals:
        raise InputError("expected at least one known image to attack, got none; choose other works or controls")
    for goal in case.goals:
        if tuple(goal.original.shape) != target.noise_shape():
            raise InputError(
                f"expected latents of shape {target.noise_shape()} for the original of {goal.id}, got "
                f"{tuple(goal.original.shape)}; encode it at the model's own size"
            )


def _united(attack: Attack, case: AttackCase, kept: Sequence[int], tries: Sequence[_Try]) -> Attacked:
    import torch

    held = [[one.cond.detach().float().cpu() for one in t.held] for t in tries]
    starts = [[one.start for one in t.held] for t in tries]
    texts = [[one.texts for one in t.held] for t in tries]
    has_start, has_texts = starts[0][0] is not None, texts[0][0] is not None
    return Attacked(
        goals=tuple(g.id for g in case.goals), made_by=attack.spec(), steps=tuple(kept),
        cond=torch.stack([torch.stack(h) for h in held]),
        start=torch.stack([torch.stack([s.detach().float().cpu() for s in row if s is not None]) for row in starts])
        if has_start else None,
        texts=tuple(tuple(t for t in row if t is not None) for row in texts) if has_texts else None,
        loss=torch.stack([t.loss for t in tries]), gradient=torch.stack([t.gradient for t in tries]),
        stopped=tuple(tuple(t.stopped) for t in tries),
        cost={kind: torch.stack([t.cost[kind] for t in tries]) for kind in ("forward", "backward")},
        flags=_flags(attack, tries),
    )  # fmt: skip


def _flags(attack: Attack, tries: Sequence[_Try]) -> tuple[str, ...]:
    """What the search itself shows to be wrong with it."""
    if not attack.uses_gradient:
        return ()
    zero = sum(int((t.gradient[1:] == 0).any(dim=0).sum()) for t in tries)
    if not zero:
        return ()
    return (
        f"zero gradient: in {zero} searches the loss did not depend on the input, so nothing was searched; the model "
        "may ignore its conditioning, or half precision rounds the gradient to zero: use --dtype float32",
    )
