"""The commands of the documentation: collected from README and ``docs/``, each with how it is run.

A comment before a block says how:

- ``<!-- run: testbed -->``: as it stands; ``<!-- run: testbed, exit 3 -->`` when another exit code is what it shows;
- ``<!-- run: gpu -->`` or ``<!-- run: hub -->``: needs a GPU or a model of the hub, so it is run with the testbed's
  model, prompts and originals instead, on the CPU, with small settings: see ``doc_testbed.py``;
- ``<!-- run: skip: reason -->``: only checked.

A block without a comment is run like one of the hub. Commands inside a configuration (``yaml``) are only checked.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"^<!--\s*run:\s*(testbed|gpu|hub|skip)\s*(?:[:,]\s*(.*?))?\s*-->$")
FENCE = re.compile(r"^(\s*)(```+)\s*(\w*)")
INLINE = re.compile(r"(?<!`)`(amnestic [^`]+)`(?!`)")
OPERATORS = {"&&", "||", ";", "|", "&", "(", ")"}
KEYWORDS = {"if", "then", "else", "elif", "while", "until", "do", "!", "{", "time"}
ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One ``bash`` block of a page.

    Attributes:
        page: Path below the repository.
        line: Line of its first command, from 1.
        lines: Its commands, those that go on over several lines joined.
        how: ``testbed``, ``gpu``, ``hub`` or ``skip``.
        reason: Why it is skipped.
        codes: Exit codes that count as done.
    """

    page: str
    line: int
    lines: tuple[str, ...]
    how: str = "hub"
    reason: str = ""
    codes: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def pages(root: Path = ROOT) -> list[Path]:
    """README and every page below ``docs/``."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def blocks(page: Path, root: Path = ROOT) -> list[Block]:
    """The ``bash`` blocks of a page, in order.

    Raises:
        ValueError: If a comment that begins with ``run:`` is none of the known ones, or skips without a reason.
    """
    found, marker, fence = list[Block](), "", None
    body: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        opened = FENCE.match(line)
        if fence is None and opened:
            fence, language, start = opened.group(2), opened.group(3), number + 1
            body = []
        elif fence is not None and line.strip().startswith(fence):
            block = Block(page=str(page.relative_to(root)), line=start, lines=tuple(_joined(body)))
            if language in {"bash", "sh", "shell", "console"}:
                found.append(_marked(block, marker))
            elif language in {"yaml", "yml"} and (inside := tuple(_in_yaml(block.lines))):
                found.append(replace(block, lines=inside, how="skip", reason="part of a configuration"))
            fence, marker = None, ""
        elif fence is not None:
            body.append(line)
        elif line.strip():
            marker = line.strip() if re.match(r"<!--\s*run\b", line.strip()) else ""
    return found


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Whole commands, without prompt signs and comments of a whole line."""
    waiting = ""
    for line in lines:
        text = waiting + line.strip().removeprefix("$ ")
        waiting = text[:-1].rstrip() + " " if text.endswith("\\") else ""
        if not waiting and text and not text.startswith("#"):
            yield text
    if waiting.strip():
        yield waiting.strip()


def _in_yaml(lines: Iterable[str]) -> Iterator[str]:
    """Commands inside a configuration, without their keys."""
    for line in lines:
        told = re.match(r"(?:-\s+)?(?:(?:run|entry):\s+)?(amnestic .*)", line)
        if told:
            yield told.group(1)


def _marked(block: Block, marker: str) -> Block:
    if not marker:
        return replace(block, codes=(0, 3, 4))
    told = MARKER.match(marker)
    if not told:
        raise ValueError(f"{block.name}: expected <!-- run: testbed, gpu, hub or skip: reason -->, got {marker}")
    how, rest = told.group(1), (told.group(2) or "").strip()
    if how == "skip" and not rest:
        raise ValueError(f"{block.name}: a block that is skipped needs a reason")
    codes = re.match(r"exit ((?:\d+ ?)+)$", rest)
    if rest and how != "skip" and not codes:
        raise ValueError(f"{block.name}: expected 'exit' and codes after {how}, got {rest}")
    allowed = (0,) if how == "testbed" else (0, 3, 4)
    given = tuple(map(int, codes.group(1).split())) if codes else allowed
    return replace(block, how=how, reason=rest if how == "skip" else "", codes=given)


def calls(line: str) -> Iterator[list[str]]:
    """Words of every call of `amnestic` in a line, without what starts it: a launcher, variables, a keyword."""
    for words in simple_commands(line):
        if words[:1] == ["amnestic"]:
            yield words[1:]
        elif "amnestic" in words and words[words.index("amnestic") - 1] == "-m":
            yield words[words.index("amnestic") + 1 :]


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands between the operators of a line of shell, redirections and leading variables taken off."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    current: list[str] = []
    skip = False
    for word in [*reader, ";"]:
        if skip or word[:1] in "<>":
            skip = not skip
        elif word in OPERATORS:
            while current and (current[0] in KEYWORDS or ASSIGNMENT.match(current[0])):
                current.pop(0)
            if current:
                yield current
            current = []
        else:
            current.append(word)
