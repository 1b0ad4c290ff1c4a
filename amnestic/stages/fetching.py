"""Fetch the originals that a prompt list names by address, so that an audit itself never touches the network."""

import csv
import hashlib
import io
import json
import threading
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from amnestic.core.errors import InputError, StoreError
from amnestic.core.records import Prompt, plain
from amnestic.core.store import write_atomically
from amnestic.sources.fetching import STATUSES, Fetched, Fetcher, Limits
from amnestic.sources.prompts import ADDRESS, is_address, read_prompts
from amnestic.stages.inputs import Progress, silent

LOG = "fetched.jsonl"
LIST = "prompts.csv"
ABSENT = "not-fetched"


@dataclass(frozen=True, kw_only=True)
class FetchRequest:
    """Everything a person asks of a fetch.

    Attributes:
        prompts: Prompt list with addresses in the column of images, or in ``url``.
        out: Folder for pictures, the record of every address, and the list that an audit reads.
        limits: What one picture may cost.
        workers: How many are fetched at once.
    """

    prompts: Path
    out: Path
    limits: Limits = field(default_factory=Limits)
    workers: int = 4


@dataclass(frozen=True, kw_only=True)
class FetchedList:
    """What became of a list.

    Attributes:
        prompts: The list that an audit reads.
        fetched: What became of each address, in the order of the list.
        before: How many of them an earlier command had fetched.
        local: Images that the list names as files; they are not fetched.
    """

    prompts: Path
    fetched: tuple[Fetched, ...]
    before: int
    local: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many addresses have each status; every status is listed."""
        found = Counter(one.status for one in self.fetched)
        return {status: found[status] for status in STATUSES}


def fetch(request: FetchRequest, *, progress: Progress = silent) -> FetchedList:
    """Fetch what a list names by address, as far as it is not there yet, and write the list that names files instead.

    Args:
        request: What is asked.
        progress: Told how many addresses are done.

    Returns:
        What became of every address; none is dropped.

    Raises:
        InputError: If the list cannot be used, or names no address.
        StoreError: If the folder holds something else.
    """
    request.limits.check()
    listed = read_prompts(request.prompts, remote=True)
    urls = list(dict.fromkeys(p.image for p in listed if is_address(p.image)))
    if not urls:
        raise InputError(
            f"{request.prompts} names no address in a column image or url; an audit reads local files as they are"
        )
    _require_own(request.out)
    known = {url: one for url, one in read_log(request.out).items() if _is_there(request.out, one)}
    found = {url: known[url] for url in urls if url in known}
    before = len(found)
    left = [url for url in urls if url not in found]
    with (request.out / LOG).open("a", encoding="utf-8") as log, closing(_all(request, left, progress)) as coming:
        for one in coming:
            found[one.url] = one
            log.write(json.dumps(plain(one)) + "\n")
            log.flush()
    write_atomically(request.out / LIST, _as_csv([_local(p, found) for p in listed], listed))
    local = tuple(dict.fromkeys(p.image for p in listed if p.image and not is_address(p.image)))
    return FetchedList(
        prompts=request.out / LIST, fetched=tuple(found[url] for url in urls), before=before, local=local
    )  # fmt: skip


def read_log(folder: Path) -> dict[str, Fetched]:
    """What is known of each address; a later line replaces an earlier one, and a torn last line is left out.

    Args:
        folder: Where `fetch` wrote.

    Returns:
        Address to what became of it.
    """
    file, found = folder / LOG, {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            one = Fetched(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[one.url] = one
    return found


def _require_own(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"--out {folder} is a file; give a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / LOG).is_file():
        raise StoreError(f"{folder} is not empty and holds nothing fetched; give another --out or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    for torn in folder.glob(".*.partial"):
        torn.unlink(missing_ok=True)
    log = folder / LOG
    if log.is_file() and not log.read_bytes().endswith(b"\n") and log.stat().st_size:
        with log.open("a") as file:
            file.write("\n")


def _is_there(folder: Path, one: Fetched) -> bool:
    file = folder / one.file
    return one.status == "ok" and file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == one.sha256


def _all(request: FetchRequest, urls: Sequence[str], progress: Progress) -> Generator[Fetched]:
    """Fetch addresses, several at once, in the order in which they are done; nothing goes on after an interruption."""
    stop = threading.Event()
    fetcher = Fetcher(folder=request.out, limits=request.limits, stop=stop)
    with ThreadPoolExecutor(max_workers=max(1, request.workers)) as pool:
        waiting = [pool.submit(fetcher.fetch, url) for url in urls]
        try:
            for done, one in enumerate(as_completed(waiting), start=1):
                progress("fetch originals", done, len(urls))
                yield one.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _local(prompt: Prompt, found: Mapping[str, Fetched]) -> Prompt:
    """The prompt with its original as a file; one that was not fetched names a file that is not there, and says why."""
    if not is_address(prompt.image):
        return prompt
    one = found[prompt.image]
    absent = f"{ABSENT}/{one.status}-{hashlib.sha256(one.url.encode()).hexdigest()[:16]}"
    return replace(prompt, image=one.file or absent)


def _as_csv(prompts: Sequence[Prompt], listed: Sequence[Prompt]) -> str:
    names = [f.name for f in fields(Prompt)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*names, ADDRESS], lineterminator="\n")
    writer.writeheader()
    for prompt, before in zip(prompts, listed, strict=True):
        address = before.image if is_address(before.image) else ""
        writer.writerow({name: getattr(prompt, name) for name in names} | {ADDRESS: address})
    return text.getvalue()
