"""Seals a run at the end of every stage that finishes something in it."""

from amnestic.core.errors import StoreError
from amnestic.core.seal import listing, seal, sealed
from amnestic.core.store import Run

FEW = 3


def seal_run(run: Run, *rewritten: str) -> None:
    """Write or renew the seal of a run; the last thing a stage does, on the main process.

    Files that an interrupted command left are sealed too, and the log names them, as this command did not write them.

    Args:
        run: The object that the stage wrote with: it knows what it wrote.
        rewritten: Names of further files that the stage wrote into the folder.

    Raises:
        StoreError: If a sealed file changed or is gone although no stage wrote it. What the stage made is sealed all
            the same; of that file the old checksum is kept.
    """
    written, before = run.written | set(rewritten), sealed(run.folder)
    found = [name for name in listing(run.folder).files if name not in before and name not in written]
    if before and found:
        run.event("found", files=found)
    problems = seal(run.folder, written)
    if problems:
        told = ", ".join(map(str, problems[:FEW])) + (f" and {len(problems) - FEW} more" if problems[FEW:] else "")
        raise StoreError(
            f"{run.folder} is not as it was sealed ({told}), and no command of amnestic did that; what this command "
            "made is kept: put the sealed files back, or delete a changed one and issue the command that makes it "
            f"(amnestic verify {run.folder} lists all)"
        )


def seal_again(run: Run) -> None:
    """Renew the seal of a run that this stage only read, but into which it may have written a record.

    Args:
        run: The object that the stage read it with.
    """
    if sealed(run.folder):
        seal_run(run)
