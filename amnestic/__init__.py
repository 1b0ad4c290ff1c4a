"""Audit text-to-image diffusion models for memorized training images, and make them forget."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amnestic.audit.request import AuditRequest
    from amnestic.core.records import Prompt, Sampling, Unit
    from amnestic.model.target import PipelineTarget

__all__ = ["AuditRequest", "PipelineTarget", "Prompt", "Sampling", "Unit"]
__version__ = version("amnestic")

_WHERE = {
    "AuditRequest": "amnestic.audit.request",
    "PipelineTarget": "amnestic.model.target",
    "Prompt": "amnestic.core.records",
    "Sampling": "amnestic.core.records",
    "Unit": "amnestic.core.records",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    """Public names load their module on first use, so that importing the package stays light."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
