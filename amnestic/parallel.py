"""Several processes at once: the only file that imports accelerate.

Whole batches are shared out, never parts of one, so every image is computed in the same batch
whether one process runs or eight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes that work on one run.

    Attributes:
        index: Number of this process, 0 for the main one.
        size: Number of processes.
        device: Where this process computes.
    """

    index: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def share(self, batches: Sequence[T]) -> list[T]:
        """The batches that this process works on: every `size`-th one.

        Example:
            >>> Team(index=1, size=2).share(["a", "b", "c", "d"])
            ['b', 'd']
        """
        return list(batches[self.index :: self.size])

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def team(device: str = "auto") -> Team:
    """The processes that `accelerate launch` started, or this one alone.

    Args:
        device: ``auto`` for what accelerate finds, ``cpu``, or a torch device such as ``cuda:1``.

    Returns:
        The team; `Team.device` is where this process computes.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    chosen = state.device if device in ("auto", "cpu") else torch.device(device)
    return Team(index=state.process_index, size=state.num_processes, device=chosen)


def shrinking_batches(work: Callable[..., Any], *, start: int) -> Any:  # noqa: ANN401 - returns what `work` returns
    """Call `work(batch_size)`, halving the batch each time memory runs out.

    Args:
        work: Takes the batch size as its first argument.
        start: First batch size to try.

    Returns:
        What `work` returns.
    """
    from accelerate.utils.memory import find_executable_batch_size

    halves = (start >> k for k in range(1, start.bit_length() + 1))
    return find_executable_batch_size(
        lambda batch_size: work(batch_size),
        starting_batch_size=start,
        reduce_batch_size_fn=lambda: next(halves),
    )()
