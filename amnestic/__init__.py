"""Audit text-to-image diffusion models for memorized training images, and make them forget."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amnestic.audit.request import AuditRequest
    from amnestic.audit.selection import Selection
    from amnestic.core.records import Prompt, Sampling, Unit
    from amnestic.core.store import Run
    from amnestic.model.target import PipelineTarget
    from amnestic.stages.analyzing import AnalyzeRequest
    from amnestic.stages.attacking import AttackRequest
    from amnestic.stages.finetuning import FinetuneRequest
    from amnestic.stages.locating import LocateRequest
    from amnestic.stages.pruning import PruneRequest
    from amnestic.stages.reporting import ReportRequest
    from amnestic.stages.studying_locality import LocalityRequest
    from amnestic.stages.surrogates import Wanted
    from amnestic.testbed.bundled import Testbed, bundled, open_testbed

__all__ = [
    "AnalyzeRequest",
    "AttackRequest",
    "AuditRequest",
    "FinetuneRequest",
    "LocalityRequest",
    "LocateRequest",
    "PipelineTarget",
    "Prompt",
    "PruneRequest",
    "ReportRequest",
    "Run",
    "Sampling",
    "Selection",
    "Testbed",
    "Unit",
    "Wanted",
    "bundled",
    "open_testbed",
]
__version__ = version("amnestic")

_WHERE = {
    "AnalyzeRequest": "amnestic.stages.analyzing",
    "AttackRequest": "amnestic.stages.attacking",
    "AuditRequest": "amnestic.audit.request",
    "FinetuneRequest": "amnestic.stages.finetuning",
    "LocalityRequest": "amnestic.stages.studying_locality",
    "LocateRequest": "amnestic.stages.locating",
    "PipelineTarget": "amnestic.model.target",
    "Prompt": "amnestic.core.records",
    "PruneRequest": "amnestic.stages.pruning",
    "ReportRequest": "amnestic.stages.reporting",
    "Run": "amnestic.core.store",
    "Sampling": "amnestic.core.records",
    "Selection": "amnestic.audit.selection",
    "Testbed": "amnestic.testbed.bundled",
    "Unit": "amnestic.core.records",
    "Wanted": "amnestic.stages.surrogates",
    "bundled": "amnestic.testbed.bundled",
    "open_testbed": "amnestic.testbed.bundled",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    """Public names load their module on first use, so that importing the package stays light."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
