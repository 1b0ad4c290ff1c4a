"""The published exit codes."""

from collections.abc import Mapping

EXIT_USAGE, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_RUNTIME = 2, 3, 4, 5
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141
VERDICT_EXIT: Mapping[str, int] = {"fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}
EXIT_CODES = (
    "0 done, 2 a mistake in what was given, 3 a gate or check failed, 4 inconclusive, 5 an error while running, "
    "130 interrupted, 141 the output was closed"
)
