"""``amnestic sign``."""

from pathlib import Path
from typing import Annotated

import typer

from amnestic.commands.verify import Sealed
from amnestic.core.errors import StoreError


def sign(
    run: Sealed,
    key: Annotated[Path, typer.Option(metavar="FILE", help="Private elliptic-curve key, PEM.")],
    ask_password: Annotated[bool, typer.Option("--ask-password", help="The key is encrypted.")] = False,
) -> None:
    """Put your name to it: sign a run as it is sealed, offline, with a key file (extra sign).

    Examples:
    amnestic sign runs/audit --key auditor.pem
    """
    from amnestic.core.seal import check
    from amnestic.core.signature import sign as sign_run

    checked = check(run)
    if checked.differences or checked.log_lines:
        raise StoreError(f"{run} is not as it was sealed, so it is not signed; see amnestic verify {run}")
    password = typer.prompt("Password of the key", hide_input=True, err=True) if ask_password else None
    bundle = sign_run(run, key, password=password)
    print(f"digest: {checked.digest}\nsignature: {bundle}\ncheck it: amnestic verify {run} --public-key FILE")
