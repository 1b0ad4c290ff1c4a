"""What a command does, stage by stage: read what is there, call one method, write one record.

Stages are the only code that joins rooms and, with `core.store`, the only one that touches the
disk. Only the lists of stages (`audit`, `demo`, `verify_testbed`) call stages.
"""

from amnestic.stages.analyzing import AnalyzeRequest, analyze
from amnestic.stages.attacking import AttackRequest, attack
from amnestic.stages.audit import audit
from amnestic.stages.demo import demo, demo_request
from amnestic.stages.extraction import extract
from amnestic.stages.finetuning import FinetuneRequest, finetune
from amnestic.stages.locality import LocalityRequest, locality
from amnestic.stages.locating import LocateRequest, locate
from amnestic.stages.pruning import PruneRequest, prune, restore
from amnestic.stages.testbed import verify_testbed

__all__ = [
    "AnalyzeRequest",
    "AttackRequest",
    "FinetuneRequest",
    "LocalityRequest",
    "LocateRequest",
    "PruneRequest",
    "analyze",
    "attack",
    "audit",
    "demo",
    "demo_request",
    "extract",
    "finetune",
    "locality",
    "locate",
    "prune",
    "restore",
    "verify_testbed",
]
