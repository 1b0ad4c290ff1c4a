"""Which sections of the findings answer which questions of published frameworks, and what the findings do not mean."""

from amnestic.report.findings_ordinary import Framework
from amnestic.report.wording import NOT_A_FINDING

LIMITS = (
    NOT_A_FINDING,
    "It is no legal advice and no finding of compliance, neither of infringement nor of its absence; substantial "
    "similarity in law is not a score of a descriptor.",
    "Zero events are an upper bound at a confidence for the works, prompts, seeds and attacks of this run, never an "
    "absence of copies in the weights.",
    "Rates hold for this protocol: this descriptor with this threshold, these prompts, seeds and sampling settings. A "
    "published threshold was validated on other pictures than generated ones.",
    "That the works were in the training data is taken from the prompt list or from the auditor, not tested.",
    "Each rate has an interval of its own at 95 %; of several together, some may miss. The rate over tested works "
    "is the primary result.",
    "Another device, kernel or batch size may turn a score that lies close to the threshold.",
    "Attacks that were not run, and budgets beyond those that were, remain untested.",
)

NIST = "NIST AI 600-1 (2024)"
CODE = "EU GPAI Code of Practice, copyright chapter (2025)"
CARDS = "Audit Cards (arXiv 2504.13839)"

_ROWS = (
    (NIST, "MP-4.1-002", "Process to answer claims of intellectual property", ("review", "evidence")),
    (NIST, "MP-4.1-004", "Documentation of training data curation", ("scope.references", "access.training_data")),
    (NIST, "MP-4.1-007", "Re-evaluation of models fine-tuned on models of others", ("scope.subject", "mitigated")),
    (NIST, "MP-4.1-008", "Re-evaluation when a model is adapted", ("scope.subject.modification", "mitigated")),
    (NIST, "MP-4.1-010", "Diligence on training data for intellectual property and privacy",
     ("scope.references", "ordinary", "attacked")),
    (CODE, "Measure 1.4 (i)", "Safeguards against outputs that reproduce training content",
     ("ordinary", "attacked", "mitigated", "scope.subject.safety_filters_in_use", "decision")),
    (CODE, "Measure 1.4 (ii)", "Prohibition of infringing use in the terms", ("scope.subject.terms",)),
    (CODE, "Measure 1.5", "Contact point and complaints", ("review.complaint_contact", "review.complaint_reference")),
    (CARDS, "1", "Who audits", ("auditor",)),
    (CARDS, "2", "Scope of the evaluation", ("scope",)),
    (CARDS, "3", "Methodology", ("methodology", "attacked")),
    (CARDS, "4", "Access and resources", ("access",)),
    (CARDS, "5", "Integrity of the process", ("integrity", "evidence")),
    (CARDS, "6", "Review and accountability", ("review",)),
)  # fmt: skip

FRAMEWORKS = tuple(
    Framework(framework=framework, id=name, question=question, sections=sections)
    for framework, name, question, sections in _ROWS
)
"""Where to look, not whether a framework is satisfied."""
