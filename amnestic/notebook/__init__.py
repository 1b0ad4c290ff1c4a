"""What a person sees in a notebook: views of runs, records and findings, and small audits of the testbed.

Each ``show_`` function returns a `View`, which Jupyter shows because it knows how to be HTML; IPython is not needed.
All texts of a run, prompts above all, stay text.
"""

from amnestic.notebook.pictures import show_attempts, show_before_after, show_pairs, show_pictures
from amnestic.notebook.records import (
    show_change,
    show_curve,
    show_findings,
    show_gate,
    show_ladder,
    show_layers,
    show_locality,
    show_losses,
    show_missing,
    show_overlap,
    show_seal,
    show_sharing,
    show_summary,
    show_verdict,
)
from amnestic.notebook.small import other_pairs, small_audit
from amnestic.notebook.view import View

__all__ = [
    "View",
    "other_pairs",
    "show_attempts",
    "show_before_after",
    "show_change",
    "show_curve",
    "show_findings",
    "show_gate",
    "show_ladder",
    "show_layers",
    "show_locality",
    "show_losses",
    "show_missing",
    "show_overlap",
    "show_pairs",
    "show_pictures",
    "show_seal",
    "show_sharing",
    "show_summary",
    "show_verdict",
    "small_audit",
]
