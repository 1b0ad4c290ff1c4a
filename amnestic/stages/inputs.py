"""What an audit reads before it computes anything."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amnestic.audit.request import AuditRequest
from amnestic.core.errors import InputError
from amnestic.core.records import Prompt, TargetId, plain
from amnestic.sources.prompts import prompts_digest, read_prompts
from amnestic.sources.references import ReferenceSet, read_references, reference_id

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an audit reads before it computes anything."""

    prompts: tuple[Prompt, ...]
    references: ReferenceSet

    def original_of(self, prompt: Prompt) -> str:
        """Reference id of a prompt's original, or an empty string."""
        return reference_id(prompt.image) if prompt.image else ""


def read_inputs(request: AuditRequest) -> Inputs:
    """Prompts and references; paths of originals count from the reference folder or the prompt list's."""
    listed = read_prompts(request.prompts)
    if request.n_seeds < 1:
        raise InputError(f"expected at least 1 seed, got {request.n_seeds}")
    named = [p.image for p in listed if p.image]
    root, walk = request.references, None
    beside = request.prompts.resolve().parent
    inside = request.references.exists() and request.references.resolve().is_relative_to(beside)
    if named and inside and not any((root / n).exists() for n in named) and any((beside / n).exists() for n in named):
        root, walk = beside, request.references.resolve().relative_to(beside).as_posix()
    masks = [p.mask for p in listed if p.mask]
    references = read_references(root, extra=named, leave_out=masks, only=walk)
    if not references.usable():
        raise InputError(f"none of the references in {request.references} can be read; see the reasons with --debug")
    return Inputs(prompts=listed[: request.limit_prompts], references=references)


def generation_settings(request: AuditRequest, inputs: Inputs, target: TargetId) -> dict[str, Any]:
    """What decides the images, and nothing else."""
    return {
        "stage": "audit",
        "model": plain(target),
        "prompts": prompts_digest(inputs.prompts),
        "n_prompts": len(inputs.prompts),
        "seeds": list(range(request.n_seeds)),
        "sampling": plain(request.sampling),
    }
