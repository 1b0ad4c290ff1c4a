"""Conditionings in place of texts, so that a method that takes prompts can be asked about embeddings."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amnestic.core.edits import Edit
from amnestic.core.errors import InputError
from amnestic.core.records import Sampling, Unit
from amnestic.core.tape import Tape

if TYPE_CHECKING:
    from torch import Tensor

    from amnestic.core.target import Target


class Spoken:
    """A target to which some texts mean given conditionings; in everything else the target itself.

    A prompt that is to stand for an embedding carries any text that is no prompt of its own.
    """

    def __init__(self, target: "Target", cond_by_text: "Mapping[str, Tensor]") -> None:
        """Give texts a meaning.

        Args:
            target: The model.
            cond_by_text: Conditioning ``(L, W)`` by text; taken to the model's device and precision.

        Raises:
            InputError: If a conditioning has another shape than the model's own.
        """
        like = target.encode([""])[0]
        for text, cond in cond_by_text.items():
            if cond.shape != like.shape:
                raise InputError(
                    f"expected conditionings of shape {tuple(like.shape)}, got {tuple(cond.shape)} for {text}; take "
                    "those that were found on this model"
                )
        self._target = target
        self._cond = {text: cond.detach().to(like.device, like.dtype) for text, cond in cond_by_text.items()}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the target has
        return getattr(self._target, name)

    def encode(self, prompts: Sequence[str]) -> "Tensor":
        """Conditioning ``(N, L, W)`` of prompts: the given one of a text that has one."""
        import torch

        others = [text for text in prompts if text not in self._cond]
        if len(others) == len(prompts):
            return self._target.encode(prompts)
        written = iter(self._target.encode(others) if others else ())
        return torch.stack([self._cond[text] if text in self._cond else next(written) for text in prompts])

    def sample(
        self, units: Sequence[Unit], prompts: Sequence[str], how: Sampling, *, stop_after: int | None = None,
        tape: Tape | None = None, cond: "Tensor | None" = None, start: "Tensor | None" = None,
    ) -> "Tensor":  # fmt: skip
        """Latents ``(N, C, H, W)`` as the target draws them; texts with a conditioning speak by it."""
        if cond is None and any(text in self._cond for text in prompts):
            cond = self.encode(prompts)
        return self._target.sample(units, prompts, how, stop_after=stop_after, tape=tape, cond=cond, start=start)

    @contextmanager
    def edited(self, edit: Edit) -> "Iterator[Spoken]":
        """The model with an edit applied, to which the texts mean the same."""
        with self._target.edited(edit) as other:
            yield Spoken(other, self._cond)
