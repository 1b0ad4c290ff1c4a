"""What a command does, stage by stage: read what is there, call one method, write one record.

Stages are the only code that joins rooms and, with `core.store`, the only one that touches the
disk. Only the lists of stages (`audit`, `verify_testbed`) call stages.
"""

from amnestic.stages.audit import audit
from amnestic.stages.testbed import verify_testbed

__all__ = ["audit", "verify_testbed"]
