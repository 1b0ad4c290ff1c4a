"""Offers an audit's results to the repository of its model: a pull request, and only when a person asks for it."""

import re
import tempfile
from pathlib import Path

from amnestic.core.errors import InputError
from amnestic.core.store import write_atomically
from amnestic.report.as_card import RESULTS_FILE, card_section, eval_results, with_section
from amnestic.report.findings import Findings
from amnestic.report.findings_parts import Missing

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
MESSAGE = "Add the results of a memorization audit"
NEW_CARD = "---\npipeline_tag: text-to-image\n---\n\n"


def publish(findings: Findings, repo: str) -> str:
    """Open a pull request that adds the audit to a model card.

    Of the findings only what `card_section` and `eval_results` say leaves this machine: no work, prompt or picture.

    Args:
        findings: The document.
        repo: Model repository, as ``ORG/NAME``.

    Returns:
        Address of the pull request.

    Raises:
        InputError: If the repository cannot be reached or refuses.
    """
    from huggingface_hub import upload_folder
    from huggingface_hub.errors import HfHubHTTPError

    require_repository(repo)
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_atomically(folder / "README.md", with_section(_card_of(repo), card_section(findings)))
            results = eval_results(findings)
            if not isinstance(results, Missing):
                write_atomically(folder / RESULTS_FILE, results)
            made = upload_folder(
                repo_id=repo, folder_path=folder, create_pr=True, commit_message=MESSAGE,
                commit_description=findings.headline[0],
            )  # fmt: skip
    except (HfHubHTTPError, OSError, ValueError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "log in with hf auth login, or hand over card.md"
        raise InputError(f"{repo} took no pull request ({told}); {hint}") from error
    return str(made.pr_url)


def require_repository(repo: str) -> None:
    """Refuse what is no name of a repository.

    Args:
        repo: As it was given.

    Raises:
        InputError: If it is not ``ORG/NAME``.
    """
    if not REPOSITORY.fullmatch(repo):
        raise InputError(f"--push-to {repo}: expected a repository as ORG/NAME; correct it")


def _card_of(repo: str) -> str:
    """The card as it is now; a repository without one gets a new one."""
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return str(ModelCard.load(repo, ignore_metadata_errors=True))
    except LocalEntryNotFoundError:  # the Hub could not be asked, which is no word about what lies there
        raise
    except EntryNotFoundError:
        return NEW_CARD
