"""Runs the commands of the documentation on the bundled testbed.

Each page is run in a folder of its own that holds ``prompts.csv`` and ``originals/``, from top to bottom; what a page
takes for granted (`BEFOREHAND`) is made first. ``...`` at the end of a command stands for the settings of the page's
first audit.
"""

import argparse
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doc_blocks import ASSIGNMENT, Block, blocks, calls, pages, simple_commands
from doc_testbed import ANY_RUN, BEFOREHAND, LAUNCHER, PLACEHOLDERS, prepare, shared_settings, substituted, testbed

LONGEST, SLOW = 600, 60  # seconds: a command is ended after the first, pointed at after the second
LOOSE = {"cd", "elif", "else", "export", "fi", "for", "if", "set", "then", "until", "while"}


@dataclass(kw_only=True)
class Runner:
    """Runs blocks in temporary folders.

    Attributes:
        folder: Where pages are run.
        took: Seconds of each command that was run.
        failed: Where commands stand that ended otherwise than they should.
    """

    folder: Path
    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _like: str = ""

    def page(self, found: Sequence[Block]) -> None:
        """Run the blocks of one page."""
        place = self.folder / re.sub(r"\W+", "-", found[0].page).strip("-")
        prepare(place)
        self._like = ""
        for block in found:
            if block.how == "skip":
                continue
            whole = any(_belongs_with_others(line) for line in block.lines)
            for line in ["\n".join(block.lines)] if whole else block.lines:
                self._line(line, block, place)

    def _line(self, line: str, block: Block, place: Path) -> None:
        if re.match(r"make\b|(?:\.venv/bin/)?pip\b|pipx\b|uv\b", line):
            return  # what make does is its own step; packages are installed already
        for one in line.splitlines():
            for words in simple_commands(one):
                self._provide(words, place)
        text = line if block.how == "testbed" else "\n".join(map(self._instead, line.splitlines()))
        self._run(block.name, text, place, block.codes)

    def _provide(self, words: Sequence[str], place: Path) -> None:
        """Make what a call takes for granted."""
        made = {words[i + 1].rstrip("/") for i, w in enumerate(words[:-1]) if w == "--out"}
        for word in (w.rstrip("/") for w in words):
            if word in made or (place / word).exists() or not (word in BEFOREHAND or ANY_RUN.match(word)):
                continue
            kept = self.folder / "made" / word
            if kept.exists():
                shutil.copytree(kept, place / word)
                continue
            for line in BEFOREHAND.get(word) or (BEFOREHAND["runs/sd14"][0].replace("runs/sd14", word),):
                filled = [str(testbed() / PLACEHOLDERS[w]) if w in PLACEHOLDERS else w for w in shlex.split(line)]
                self._provide(filled[1:], place)
                self._run("beforehand", shlex.join(filled), place, (0,))
            if (word not in BEFOREHAND or word == "runs/sd14") and (place / word).exists():
                shutil.copytree(place / word, kept)

    def _instead(self, line: str) -> str:
        """The same on the testbed, with small settings."""
        commands = []
        for words in simple_commands(line):
            if not any(True for _ in calls(shlex.join(words))):
                return line  # other programs are run as they stand
            if words[-1] == "...":
                words = [*words[:-1], *shlex.split(self._like)]
            start = words.index("amnestic") + 1
            changed = substituted(words[start:])
            if words[start] == "audit" and not self._like:
                self._like = shlex.join(shared_settings(changed))
            launched = LAUNCHER if words[:2] == ["accelerate", "launch"] else words[:start]
            commands.append(shlex.join([*launched, *changed]))
        return " && ".join(commands)

    def _run(self, name: str, line: str, place: Path, codes: Sequence[int]) -> None:
        started = time.monotonic()
        words = _alone(line)
        code, output = _forked(words, place) if words is not None else _by_shell(line, place)
        took = time.monotonic() - started
        self.took.append(took)
        good = code in codes
        slow = " !" if took > SLOW else "  "
        print(f"{'ok  ' if good else 'FAIL'} {took:5.1f} s{slow}{name}  {line}", flush=True)
        if not good:
            self.failed.append(name)
            print(f"    exit code {code}, expected {' or '.join(map(str, codes))}\n" + _indented(output[-3000:]))


def _belongs_with_others(line: str) -> bool:
    """Whether a line changes the shell that reads the next one: then the block is run as one script."""
    assigns = ASSIGNMENT.match(line) and not any(True for _ in simple_commands(line))
    return bool(assigns) or line.split()[0] in LOOSE or "<<" in line


def _alone(line: str) -> list[str] | None:
    """Words of a call that is all of a line, or `None`: then a shell has to read it."""
    words = shlex.split(line, comments=True)
    same = list(simple_commands(line)) == [words] and not any(c in line for c in "$~*?`")
    return words[1:] if same and words[:1] == ["amnestic"] else None


def _forked(words: Sequence[str], place: Path) -> tuple[int, str]:
    """Run a call in a child of this process, which has imported the libraries once for all of them."""
    with tempfile.TemporaryFile() as file:
        process = multiprocessing.get_context("fork").Process(target=_call, args=(words, place, file.fileno()))
        process.start()
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            process.join()
        file.seek(0)
        output = file.read().decode(errors="replace")
    return process.exitcode if process.exitcode is not None else -1, output


def _call(words: Sequence[str], place: Path, output: int) -> None:
    from amnestic.cli import main as amnestic

    os.chdir(place)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["amnestic", *words]
    amnestic()


def _by_shell(line: str, place: Path) -> tuple[int, str]:
    try:
        done = subprocess.run(  # noqa: S603 - the commands of our own documentation
            ["bash", "-euo", "pipefail", "-c", line], cwd=place, stdin=subprocess.DEVNULL,  # noqa: S607
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONGEST, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        told = error.stdout or b""
        return -1, f"{told.decode(errors='replace') if isinstance(told, bytes) else told}\nended after {LONGEST} s"
    return done.returncode, done.stdout


def _import_once() -> None:
    """What every command would import by itself, before children are made."""
    own = Path(sys.executable).parent
    os.environ |= {
        "PATH": f"{own}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "NO_COLOR": "1",
    }  # fmt: skip
    from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401

    import amnestic.model.loading
    import amnestic.stages

    for name in amnestic.stages.__all__:
        getattr(amnestic.stages, name)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def main() -> None:
    """Run the blocks of all pages or of those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: README.md and docs/")
    parser.add_argument("--list", action="store_true", help="show what would be run")
    asked = parser.parse_args()
    found = [blocks(page.resolve()) for page in asked.pages or pages()]
    found = [of_page for of_page in found if of_page]
    if asked.list:
        for block in (b for of_page in found for b in of_page):
            print(f"{block.name}  {block.how}{f': {block.reason}' if block.reason else ''}")
            print(*(f"    {line}" for line in block.lines), sep="\n")
        return
    _import_once()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(folder=Path(folder))
        for of_page in found:
            runner.page(of_page)
    told = f"{len(runner.took)} commands of {len(found)} pages in {sum(runner.took):.0f} s"
    sys.exit(f"{told}; failed: {', '.join(runner.failed)}" if runner.failed else print(told))


if __name__ == "__main__":
    main()
