"""What a command does, stage by stage: read what is there, call one method, write one record.

Stages are the only code that joins rooms and, with `core.store`, the only one that touches the
disk. Only the lists of stages (`audit`, `demo`, `verify_testbed`) call stages. A name loads its
module on first use, so that a command pays for its own stage alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amnestic.sources.fetching import Limits
    from amnestic.stages.analyzing import AnalyzeRequest, analyze
    from amnestic.stages.attacking import AttackRequest, attack
    from amnestic.stages.auditing import audit
    from amnestic.stages.comparing import compare, write_comparison
    from amnestic.stages.demonstrating import demo, demo_request
    from amnestic.stages.extraction import extract
    from amnestic.stages.fetching import FetchedList, FetchRequest, fetch
    from amnestic.stages.finetuning import FinetuneRequest, finetune
    from amnestic.stages.gating import gate, write_junit
    from amnestic.stages.locating import LocateRequest, locate
    from amnestic.stages.pruning import PruneRequest, prune, restore
    from amnestic.stages.reporting import Reported, ReportRequest, report
    from amnestic.stages.studying_locality import LocalityRequest, locality
    from amnestic.stages.testbed import verify_testbed

_WHERE = {
    "AnalyzeRequest": "amnestic.stages.analyzing",
    "AttackRequest": "amnestic.stages.attacking",
    "FetchRequest": "amnestic.stages.fetching",
    "FetchedList": "amnestic.stages.fetching",
    "FinetuneRequest": "amnestic.stages.finetuning",
    "Limits": "amnestic.sources.fetching",
    "LocalityRequest": "amnestic.stages.studying_locality",
    "LocateRequest": "amnestic.stages.locating",
    "PruneRequest": "amnestic.stages.pruning",
    "ReportRequest": "amnestic.stages.reporting",
    "Reported": "amnestic.stages.reporting",
    "analyze": "amnestic.stages.analyzing",
    "attack": "amnestic.stages.attacking",
    "audit": "amnestic.stages.auditing",
    "compare": "amnestic.stages.comparing",
    "demo": "amnestic.stages.demonstrating",
    "demo_request": "amnestic.stages.demonstrating",
    "extract": "amnestic.stages.extraction",
    "fetch": "amnestic.stages.fetching",
    "finetune": "amnestic.stages.finetuning",
    "gate": "amnestic.stages.gating",
    "locality": "amnestic.stages.studying_locality",
    "locate": "amnestic.stages.locating",
    "prune": "amnestic.stages.pruning",
    "report": "amnestic.stages.reporting",
    "restore": "amnestic.stages.pruning",
    "verify_testbed": "amnestic.stages.testbed",
    "write_comparison": "amnestic.stages.comparing",
    "write_junit": "amnestic.stages.gating",
}
__all__ = [
    "AnalyzeRequest",
    "AttackRequest",
    "FetchRequest",
    "FetchedList",
    "FinetuneRequest",
    "Limits",
    "LocalityRequest",
    "LocateRequest",
    "PruneRequest",
    "ReportRequest",
    "Reported",
    "analyze",
    "attack",
    "audit",
    "compare",
    "demo",
    "demo_request",
    "extract",
    "fetch",
    "finetune",
    "gate",
    "locality",
    "locate",
    "prune",
    "report",
    "restore",
    "verify_testbed",
    "write_comparison",
    "write_junit",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
