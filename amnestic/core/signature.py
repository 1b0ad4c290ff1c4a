"""A signature of a run: a sigstore bundle over ``SHA256SUMS``, made and checked with key files, without a network.

``SHA256SUMS`` stands for every file of the run, so that its signature signs them all; the bundle, ``SHA256SUMS.sig``,
lies beside it and is covered by neither.
"""

import os
from pathlib import Path
from typing import Any

from amnestic.core.errors import InputError
from amnestic.core.seal import SIGNATURE, SUMS

MISSING = (
    "signatures need the package model-signing, which is not installed; pip install 'amnestic[sign]', or compare the "
    "digest that amnestic verify prints"
)
CURVES = "an elliptic-curve key in PEM of the curve P-256, P-384 or P-521 (openssl ecparam -name prime256v1 -genkey)"


def sign(folder: Path, key: Path, *, password: str | None = None) -> Path:
    """Sign a sealed run.

    Args:
        folder: The run.
        key: File of the private key.
        password: Of the key, if it has one.

    Returns:
        The bundle, which replaces an earlier one.

    Raises:
        InputError: If the key cannot be used, or model-signing is not installed.
    """
    signing, _ = _library()
    try:
        how = signing.Config().use_elliptic_key_signer(
            private_key=key,
            password=password.encode() if password is not None else None,  # what the library hands on wants bytes
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected {CURVES} in {key}, got none that can be used ({_first(error)}); an encrypted one needs "
            "--ask-password"
        ) from error
    partial = folder / f".{SIGNATURE}.{os.getpid()}.partial"
    how.sign(folder / SUMS, partial)
    return partial.replace(folder / SIGNATURE)


def signature_fits(folder: Path, public_key: Path) -> bool:
    """Whether the bundle of a run was made with the private half of a key, over ``SHA256SUMS`` as it is now.

    Args:
        folder: The run.
        public_key: File of the public key.

    Raises:
        InputError: If the key cannot be used, or model-signing is not installed.
    """
    _, verifying = _library()
    try:
        how = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"expected the public half of {CURVES} in {public_key} ({_first(error)})") from error
    try:
        how.verify(folder / SUMS, folder / SIGNATURE)
    except Exception:  # a damaged bundle fails in as many ways as there are bytes
        return False
    return True


def _library() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise InputError(MISSING) from error
    return signing, verifying


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
