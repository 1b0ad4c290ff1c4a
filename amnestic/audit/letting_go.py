"""Letting go of units one after another, as long as what is left does what it should."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import count
from typing import Literal

from amnestic.core.units import Site

Neurons = dict[Site, list[int]]
Left = tuple[tuple[int, ...], ...]
Ask = Callable[[Sequence[Neurons]], list[bool]]
Order = Literal["one-by-one", "grouped", "sized"]

WORTH = 0.4  # near the best size of a group: it goes about as often as not


@dataclass(frozen=True)
class Refinement:
    """Where letting go stands.

    Attributes:
        left: Neurons that are still silenced, by layer, in order of computation.
        todo: What is tried next: number of a layer, some of its neurons, and whether they are tried by halves
            when they may not go at once.
    """

    left: Left
    todo: tuple[tuple[int, tuple[int, ...], bool], ...]

    @classmethod
    def of(cls, left: Left, *, grouped: bool) -> "Refinement":
        """The beginning: layers from the last to the first, then neurons of layers from the last to the first."""
        last_first = list(enumerate(left))[::-1]
        layers = [(at, neurons, False) for at, neurons in last_first]
        parts = [(at, part, True) for at, ns in last_first for part in ([ns] if grouped else [(n,) for n in ns])]
        return cls(left, tuple(layers + parts))._tidy()

    @cached_property
    def asked(self) -> Left:
        """What would be left if the next neurons went."""
        at, group, _ = self.todo[0]
        gone = frozenset(group)
        return (*self.left[:at], tuple(n for n in self.left[at] if n not in gone), *self.left[at + 1 :])

    def after(self, *, gone: bool) -> "Refinement":
        """Where it stands once the next question is answered."""
        at, group, by_halves = self.todo[0]
        if gone:
            return Refinement(self.asked, self.todo[1:])._tidy()
        half = len(group) // 2
        parts = [(at, group[:half], True), (at, group[half:], True)] if by_halves and half else []
        return Refinement(self.left, (*parts, *self.todo[1:]))._tidy()

    def _tidy(self) -> "Refinement":
        """Without questions about nothing."""
        for skip, (at, group, _) in enumerate(self.todo):
            if group and group[0] in self.left[at]:
                return Refinement(self.left, self.todo[skip:]) if skip else self
        return Refinement(self.left, ())


@dataclass(kw_only=True)
class Hope:
    """How likely neurons may go, from those asked about so far.

    Attributes:
        worth: Groups that go with a smaller chance are halved without a question.
        gone: Neurons let go, and one.
        stayed: Neurons that are needed, and one.
    """

    worth: float
    gone: int = 1
    stayed: int = 1

    def chance(self, state: Refinement) -> float:
        """That the next neurons go; even for a whole layer."""
        _, group, by_halves = state.todo[0]
        return float((self.gone / (self.gone + self.stayed)) ** len(group)) if by_halves else 0.5

    def pointed(self, state: Refinement, needed: set[Left]) -> Refinement:
        """The next state with a question that is open and worth it."""
        while state.todo and (state.asked in needed or self._hopeless(state)):
            state = state.after(gone=False)
        return state

    def learn(self, state: Refinement, *, gone: bool) -> None:
        """Count an answer; a layer's says little of its neurons."""
        _, group, by_halves = state.todo[0]
        if by_halves and gone:
            self.gone += len(group)
        elif by_halves and len(group) == 1:
            self.stayed += 1

    def _hopeless(self, state: Refinement) -> bool:
        _, group, by_halves = state.todo[0]
        return by_halves and len(group) > 1 and self.chance(state) < self.worth


def refined(
    chosen: Neurons, ask: Ask, confirm: Callable[[Neurons], bool], *, order: Order, ahead: Callable[[], int] = lambda: 1
) -> Neurons:
    """Let go of layers, then of neurons, from the last layer to the first, while the image stays forgotten.

    Args:
        chosen: Neurons by site, in order of computation.
        ask: Whether the image stays forgotten with each of some choices. A no is final.
        confirm: Whether it truly does with one choice to which `ask` said yes. After a no, `ask` knows better.
        order: ``one-by-one``; ``grouped``: a layer's neurons at once, and halves of what may not go at once;
            ``sized``: so, too, but without the groups that hardly go, judging by those asked about before.
        ahead: How many questions may be asked at once, the later ones in case they come up.

    Returns:
        What is needed of `chosen`.
    """

    def silenced(left: Left) -> Neurons:
        return {site: list(neurons) for site, neurons in zip(chosen, left, strict=True)}

    def answers(many: Sequence[Left]) -> dict[Left, bool]:
        return dict(zip(many, ask([silenced(one) for one in many]), strict=True))

    start = Refinement.of(tuple(map(tuple, chosen.values())), grouped=order != "one-by-one")
    trail, needed = [start], set[Left]()
    while True:
        _walk(trail, answers, needed, ahead, Hope(worth=WORTH if order == "sized" else 0.0))
        if len(trail) == 1 or confirm(silenced(trail[-1].left)):
            return silenced(trail[-1].left)
        fine, bad = 0, len(trail) - 1
        while bad - fine > 1:
            middle, tried = (fine + bad) // 2, trail[(fine + bad) // 2].left
            fine, bad = (middle, bad) if answers([tried])[tried] else (fine, middle)
        needed.add(trail[bad].left)
        del trail[bad:]


def _walk(
    trail: list[Refinement], ask: Callable[[Sequence[Left]], dict[Left, bool]], needed: set[Left],
    ahead: Callable[[], int], hope: Hope,
) -> None:  # fmt: skip
    """Try everything: the trail gets what was reached by letting go, `needed` what may not be all that is left."""
    state = hope.pointed(trail[-1], needed)
    while state.todo:
        answers = ask(_coming(state, ahead(), needed, hope))
        while state.todo and state.asked in answers:
            gone = answers[state.asked]
            hope.learn(state, gone=gone)
            if not gone:
                needed.add(state.asked)
            state = state.after(gone=gone)
            if gone:
                trail.append(state)
            state = hope.pointed(state, needed)


def _coming(state: Refinement, n: int, needed: set[Left], hope: Hope) -> list[Left]:
    """The `n` open questions that most likely come up next, the very next one first."""
    order = count()
    heap, found = [(-1.0, next(order), state)], list[Left]()
    while heap and len(found) < n:
        chance, _, one = heappop(heap)
        one = hope.pointed(one, needed)
        if one.todo:
            found += [one.asked] if one.asked not in found else []
            for gone, share in ((True, hope.chance(one)), (False, 1 - hope.chance(one))):
                heappush(heap, (chance * share, next(order), one.after(gone=gone)))
    return found
