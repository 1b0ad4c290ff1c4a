"""Gradient of one step: summed over its parts and all processes, with what each term was worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amnestic.core.finetuning import FineTuning, Losses, Part
from amnestic.parallel import Team

TOGETHER = ""


@dataclass(kw_only=True)
class Gradients:
    """Sums up gradients of the parts of one step.

    Attributes:
        weights: What learns.
        method: Says how many rows a step has, and whether terms are weighed against each other.
        scale: What losses are multiplied by before gradients are taken; 1 but in fp16.
        by_term: Gradients so far by name of the term, or all under one name.
        values: Mean of each term so far.
    """

    weights: Sequence[nn.Parameter]
    method: FineTuning
    scale: float = 1.0
    by_term: dict[str, list[Tensor]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    def add(self, losses: Losses, part: Part) -> None:
        """Add what a part costs; its graph is freed."""
        terms = self._means(losses, part)
        for name, value in terms.items():
            self.values[name] = self.values.get(name, 0.0) + float(value.detach())
        if not self.method.balances:
            terms = {TOGETHER: torch.stack(list(terms.values())).sum()} if terms else {}
        last = len(terms) - 1
        for place, (name, value) in enumerate(terms.items()):
            if not value.requires_grad:
                continue
            found = torch.autograd.grad(
                value * self.scale, self.weights, retain_graph=place < last, allow_unused=True
            )  # fmt: skip
            self._sum(name, found)

    def _sum(self, name: str, found: Sequence[Tensor | None]) -> None:
        there = self.by_term.get(name)
        if there is None:
            self.by_term[name] = [
                torch.zeros_like(w) if g is None else g for g, w in zip(found, self.weights, strict=True)
            ]
            return
        for total, gradient in zip(there, found, strict=True):
            if gradient is not None:
                total.add_(gradient)

    def _means(self, losses: Losses, part: Part) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for terms, rows, total in (
            (losses.forget, part.forget, self.method.forget_rows), (losses.retain, part.retain, self.method.retain_rows)
        ):  # fmt: skip
            for name, value in terms.items():
                if tuple(value.shape) != (len(rows),) or name in found:
                    raise ValueError(
                        f"{self.method.spec().name}: expected one {name} per row, {len(rows)}, under a name of its "
                        f"own; got {tuple(value.shape)}"
                    )
                if len(rows):
                    found[name] = value.float().sum() / total
        return found

    def across(self, crew: Team) -> None:
        """Sum over all processes."""
        if crew.size == 1:
            return
        told = crew.gathered((self.values, sorted(self.by_term)))
        names = sorted({name for values, _ in told for name in values})
        self.values = {n: sum(values.get(n, 0.0) for values, _ in told) for n in names}
        for name in sorted({n for _, terms in told for n in terms}):
            mine = self.by_term.setdefault(name, [torch.zeros_like(w) for w in self.weights])
            crew.add_up(mine)

    def norms(self) -> dict[str, float]:
        """Length of each term's gradient."""
        return {name: float(_norm(some)) / self.scale for name, some in self.by_term.items()}

    @torch.no_grad()
    def hand_over(self, masks: Mapping[int, Tensor]) -> None:
        """Give every weight its gradient: the sum of the terms', each times its factor, where it may move."""
        factors = self.method.balance(self.norms()) if self.method.balances else {}
        for place, weight in enumerate(self.weights):
            terms = [some[place] * factors[n] if factors else some[place] for n, some in self.by_term.items()]
            weight.grad = torch.stack(terms).sum(0) if len(terms) > 1 else (terms[0] if terms else None)
            if weight.grad is not None and place in masks:
                weight.grad = weight.grad * masks[place]


def _norm(some: Sequence[Tensor]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in some]))
    return length
