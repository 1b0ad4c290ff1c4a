"""What a command does, stage by stage: read what is there, call one method, write one record.

Stages are the only code that joins rooms and, with `core.store`, the only one that touches the
disk. Only the lists of stages (`audit`, `demo`, `verify_testbed`) call stages.
"""

from amnestic.sources.fetching import Limits
from amnestic.stages.analyzing import AnalyzeRequest, analyze
from amnestic.stages.attacking import AttackRequest, attack
from amnestic.stages.audit import audit
from amnestic.stages.comparing import compare, write_comparison
from amnestic.stages.demo import demo, demo_request
from amnestic.stages.extraction import extract
from amnestic.stages.fetching import FetchedList, FetchRequest, fetch
from amnestic.stages.finetuning import FinetuneRequest, finetune
from amnestic.stages.gating import gate, write_junit
from amnestic.stages.locality import LocalityRequest, locality
from amnestic.stages.locating import LocateRequest, locate
from amnestic.stages.pruning import PruneRequest, prune, restore
from amnestic.stages.reporting import Reported, ReportRequest, report
from amnestic.stages.testbed import verify_testbed

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
