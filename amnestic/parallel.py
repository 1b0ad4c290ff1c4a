"""Several processes at once: the only file that imports accelerate.

Whole batches are shared out, never parts of one, so every image is computed in the same batch
whether one process runs or eight.
"""

import atexit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from amnestic.core.errors import AmnesticError, InputError

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)


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

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Let the main process do something while the others wait.

        Args:
            work: What it does.

        Returns:
            What `work` returns; `None` in the others.

        Raises:
            AmnesticError: In every process, if `work` raises it.

        Example:
            >>> Team().on_main(lambda: 3), Team(index=1).on_main(lambda: 3)
            (3, None)
        """
        made: T | None = None
        told: list[AmnesticError | None] = [None]
        if self.is_main:
            try:
                made = work()
            except AmnesticError as error:
                told = [error]
        if self.size > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(told, from_process=0)
        if told[0] is not None:
            raise told[0]
        return made

    def add_up(self, values: Sequence[torch.Tensor]) -> None:
        """Sum tensors over all processes, in place; every process gives as many of the same shapes.

        Example:
            >>> x = torch.ones(2)
            >>> Team().add_up([x])
            >>> x.tolist()
            [1.0, 1.0]
        """
        if self.size > 1:
            from accelerate.utils import reduce

            for value in values:
                value.copy_(reduce(value, reduction="sum"))

    def gathered(self, value: T) -> list[T]:
        """What each process has, in the order of their numbers; tensors inside must lie on the CPU.

        Example:
            >>> Team().gathered("a")
            ['a']
        """
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found


def team(device: str = "auto") -> Team:
    """The processes that `accelerate launch` started, or this one alone.

    Args:
        device: ``auto`` for what accelerate finds, ``cpu``, or a torch device such as ``cuda:1``.

    Returns:
        The team; `Team.device` is where this process computes.
    """
    from accelerate import PartialState

    # Shares of a list take unequally long, so whoever is done first may wait for hours.
    state = PartialState(cpu=device == "cpu", timeout=LONGEST_WAIT)
    if state.num_processes > 1:
        atexit.register(state.destroy_process_group)  # its threads, still running at the end, may abort the process
    chosen = state.device if device in ("auto", "cpu") else torch.device(device)
    return Team(index=state.process_index, size=state.num_processes, device=chosen)


def shrinking_batches(work: Callable[..., Any], *, start: int) -> Any:  # noqa: ANN401 - returns what `work` returns
    """Call `work(batch_size)`, halving the batch each time memory runs out.

    Args:
        work: Takes the batch size as its first argument.
        start: First batch size to try.

    Returns:
        What `work` returns.

    Raises:
        InputError: If memory runs out for one alone; draw smaller images or compute in half precision.
    """
    from accelerate.utils.memory import find_executable_batch_size, should_reduce_batch_size

    try:  # the finder collects garbage at every call, which costs more than it does here
        return work(start)
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
    size = start

    def halve() -> int:
        nonlocal size
        size //= 2
        if size == 0:
            raise InputError(
                "memory runs out even for one image at a time; give a smaller --height and --width, or --dtype float16"
            )
        return size

    return find_executable_batch_size(
        lambda batch_size: work(batch_size), starting_batch_size=halve(), reduce_batch_size_fn=halve
    )()
