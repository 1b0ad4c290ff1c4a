"""Provenance of an audit: the general one, the model's files and how it computes, and the command."""

from collections.abc import Mapping
from typing import Any

from amnestic.audit.request import AuditRequest
from amnestic.core.provenance import provenance
from amnestic.core.store import Run, different
from amnestic.model.origin import attention_of, model_files
from amnestic.model.target import PipelineTarget
from amnestic.parallel import Team

STAYS = ("python", "platform", "packages", "code", "device", "threads", "determinism", "attention_kernels")


def provenance_of(request: AuditRequest, target: PipelineTarget, members: Team) -> dict[str, Any]:
    """What a third party needs to repeat an audit.

    Args:
        request: What was asked.
        target: The model, loaded.
        members: The processes that draw.

    Returns:
        Plain data; nothing in it decides the results.
    """
    files = model_files(
        request.model, revision=request.revision, variant=request.variant, allow_pickle=request.allow_pickle,
        config=request.config,
    )  # fmt: skip
    return provenance(members.device) | {
        "processes": members.size, "batch_size": request.batch_size, "dtype": target.ident.dtype,
        "attention": attention_of(target.pipeline), "model": files, "command": request.command(),
    }  # fmt: skip


def changed_since(run: Run, members: Team) -> Mapping[str, str]:
    """For the log of a run that is continued: in what this machine and its packages differ from the first start.

    Args:
        run: The run.
        members: The processes that draw.

    Returns:
        ``differs`` in words; empty when nothing does, or when the manifest tells too little to compare.
    """
    before = run.manifest()["provenance"]
    if "code" not in before:  # written by a version that noted less
        return {}
    now = provenance(members.device)
    told = different({k: before.get(k) for k in STAYS}, {k: now.get(k) for k in STAYS})
    return {"differs": told} if told else {}
