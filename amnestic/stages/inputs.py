"""What an audit reads before it computes anything."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from amnestic.audit.request import AuditRequest
from amnestic.core.errors import InputError
from amnestic.core.protocols import Encoder
from amnestic.core.records import Prompt, TargetId, digest, plain
from amnestic.sources.images import ImageProblem
from amnestic.sources.masks import open_mask
from amnestic.sources.prompts import read_prompts
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

    def declared(self) -> dict[str, str]:
        """The work of each reference, where the prompt list names one.

        Raises:
            InputError: If two prompts of one original name different works.
        """
        found: dict[str, Prompt] = {}
        for prompt in self.prompts:
            if prompt.image and prompt.work:
                before = found.setdefault(self.original_of(prompt), prompt)
                if before.work != prompt.work:
                    raise InputError(
                        f"prompts {before.id} and {prompt.id} name one image, {prompt.image}, but the works "
                        f"{before.work!r} and {prompt.work!r}; give an image one work"
                    )
        return {name: prompt.work for name, prompt in found.items()}

    def original_of(self, prompt: Prompt) -> str:
        """Reference id of a prompt's original, or an empty string."""
        return reference_id(prompt.image) if prompt.image else ""


def read_inputs(request: AuditRequest) -> Inputs:
    """Prompts and references; paths of originals count from the reference folder or the prompt list's."""
    request.check()
    listed = read_prompts(request.prompts)
    _require_out_of_the_way(request)
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
    inputs = Inputs(prompts=listed[: request.limit_prompts], references=references)
    inputs.declared()
    _require_originals(request, inputs)
    _require_masks(request, inputs)
    return inputs


def _require_originals(request: AuditRequest, inputs: Inputs) -> None:
    """Without a single original there is nothing to compare the images of a prompt with."""
    named = [inputs.original_of(p) for p in inputs.prompts if p.image]
    state = {r.id: r for r in inputs.references.references}
    if any(state[name].status == "ok" for name in named):
        return
    if not named:
        raise InputError(
            f"no prompt of {request.prompts} names its original; add a column image with paths inside "
            f"{request.references}, which the lists of Wen et al. and of NeMo come without"
        )
    raise InputError(
        f"none of the originals that {request.prompts} names in its column image can be used, the first of them "
        f"{named[0]}: {state[named[0]].reason}"
    )


def _require_masks(request: AuditRequest, inputs: Inputs) -> None:
    """Open every mask once, so that a bad one is known before hours of drawing."""
    for row, prompt in enumerate(inputs.prompts, start=1):
        if prompt.mask:
            try:
                open_mask(inputs.references.folder, prompt.mask)
            except ImageProblem as problem:
                where = f"{request.prompts}, row {row} ({prompt.id})"
                raise InputError(f"{where}: mask {prompt.mask}: {problem.reason}") from problem


def _require_out_of_the_way(request: AuditRequest) -> None:
    """A run inside the folder of originals would find its own images among them when it is continued."""
    folder, out = request.references.resolve(), request.out.resolve()
    if folder.is_dir() and out.is_relative_to(folder):
        raise InputError(
            f"--out {request.out} lies inside the references {request.references}, so its images would be taken for "
            "originals; give a folder elsewhere"
        )


def usable_with(encoder: Encoder, inputs: Inputs) -> Inputs:
    """The inputs without originals of a size that the encoder does not take; they are counted with the reason.

    Raises:
        InputError: If none is left.
    """
    told = {r.id: encoder.refuses(r.height, r.width) for r in inputs.references.usable()}
    references = inputs.references.without({name: reason for name, reason in told.items() if reason})
    if not references.usable():
        raise InputError(f"{encoder.descriptor.name} takes none of the references: {next(iter(told.values()))}")
    return replace(inputs, references=references)


def generation_settings(request: AuditRequest, inputs: Inputs, target: TargetId) -> dict[str, Any]:
    """What decides the images, and nothing else: of the prompts their ids and texts, not what is known about them."""
    return {
        "stage": "audit",
        "model": {k: v for k, v in plain(target).items() if v or k not in ("config", "adapters")},
        "prompts": digest([[p.id, p.prompt] for p in inputs.prompts]),
        "n_prompts": len(inputs.prompts),
        "seeds": list(range(request.n_seeds)),
        "sampling": plain(request.sampling),
    }
