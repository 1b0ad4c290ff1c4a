"""Where the bundled testbed lies and what it says about itself. Reads nothing heavy."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amnestic.core.errors import InputError
from amnestic.core.names import bundled_folder
from amnestic.core.records import Sampling


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """A testbed folder.

    Attributes:
        folder: Holds ``pipeline/``, ``twin/``, ``descriptors/``, ``references/``, ``heldout/``,
            ``masks/``, ``prompts.csv`` and ``manifest.json``.
    """

    __test__ = False  # pytest: not a test class

    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """Hashes, recipe, licences, sampling settings and what was measured."""
        content: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return content

    @property
    def sampling(self) -> Sampling:
        """The settings at which the contract holds."""
        wanted = self.manifest["sampling"]
        return Sampling(
            scheduler="DDIMScheduler",
            num_inference_steps=wanted["num_inference_steps"],
            guidance_scale=wanted["guidance_scale"],
        )

    @property
    def prompts(self) -> Path:
        """The prompt list."""
        return self.folder / "prompts.csv"

    def rows(self) -> list[dict[str, str]]:
        """The prompt list as plain rows."""
        with self.prompts.open(newline="") as file:
            return list(csv.DictReader(file))


def bundled() -> Testbed:
    """The testbed that ships with the package.

    Raises:
        InputError: If this installation carries none.
    """
    return open_testbed(bundled_folder())


def open_testbed(folder: Path) -> Testbed:
    """A testbed folder, checked for its manifest.

    Raises:
        InputError: If it is not one.
    """
    if not (folder / "manifest.json").is_file():
        raise InputError(
            f"expected a testbed folder with manifest.json, found none in {folder}; "
            "build one with: amnestic testbed build --out DIR"
        )
    return Testbed(folder=folder)
