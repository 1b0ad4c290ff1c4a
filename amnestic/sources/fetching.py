"""Fetch one picture from an address that a prompt list names, within limits.

The list, the server and the picture are all untrusted: a server may hang, drip, redirect in circles or into the own
network, lie about what it sends, and never stop sending. Whatever happens ends in a status and a reason.
"""

import hashlib
import ssl
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import httpcore2
import httpx2

from amnestic.core.errors import InputError, StoreError
from amnestic.sources.fetching_answers import REDIRECTS, Busy, checked, kind_of, next_hop, require_answer
from amnestic.sources.fetching_network import (
    Deadline,
    FetchProblem,
    GuardedBackend,
    GuardedTransport,
    Resolve,
    addresses_of,
)
from amnestic.sources.images import ImageProblem, open_image

STATUSES = ("ok", "missing", "too-large", "wrong-type", "timed-out", "refused", "unreachable", "unreadable")
IMAGES = "images"
_HEAD = 16
_FIRST_WAIT = 0.5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one picture may cost.

    Attributes:
        max_bytes: Largest accepted file.
        max_pixels: Largest accepted width times height.
        connect_timeout: Seconds for an address and a connection.
        read_timeout: Seconds of silence.
        total_timeout: Seconds for everything: look-up, redirects, waiting, retries, the picture.
        redirects: How often a server may point elsewhere.
        retries: Tries after the first when a server is busy or a connection breaks.
        longest_wait: Seconds that a busy server may ask us to wait.
        allow_private: Whether addresses inside the own network may be reached.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 64_000_000
    connect_timeout: float = 10.0
    read_timeout: float = 15.0
    total_timeout: float = 120.0
    redirects: int = 5
    retries: int = 3
    longest_wait: float = 30.0
    allow_private: bool = False

    def check(self) -> None:
        """Refuse limits that nothing can keep.

        Raises:
            InputError: If one is not positive; the sentence names it.
        """
        for name in ("max_bytes", "max_pixels", "connect_timeout", "read_timeout", "total_timeout"):
            if not getattr(self, name) > 0:
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option} {getattr(self, name):g}: expected a number above 0; correct it")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of one address, and where a picture comes from.

    Attributes:
        url: As the prompt list names it.
        status: ``ok``, ``missing``, ``too-large``, ``wrong-type``, ``timed-out``, ``refused``, ``unreachable`` or
            ``unreadable``.
        reason: Why it is not ``ok``, or empty.
        final_url: Where redirects led, or empty.
        utc: When.
        sha256: Hash of the file, or empty.
        bytes: Size of the file.
        type: ``image/png``, ``image/jpeg`` or ``image/webp``, by content; or empty.
        width: Pixels after EXIF rotation, 0 without a picture.
        height: Pixels after EXIF rotation, 0 without a picture.
        file: Path relative to the folder, named by content; or empty.
    """

    url: str
    status: str = "ok"
    reason: str = ""
    final_url: str = ""
    utc: str = ""
    sha256: str = ""
    bytes: int = 0
    type: str = ""
    width: int = 0
    height: int = 0
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches pictures into a folder; safe to use from several threads.

    Attributes:
        folder: Where pictures go, below ``images/``.
        limits: What one may cost.
        stop: Set to end everything that is under way.
        resolve: Looks up the addresses of a host.
        ssl_context: Which certificates are trusted.
    """

    folder: Path
    limits: Limits = field(default_factory=Limits)
    stop: threading.Event = field(default_factory=threading.Event)
    resolve: Resolve = addresses_of
    ssl_context: ssl.SSLContext = field(default_factory=httpx2.create_ssl_context, repr=False)
    _decoding: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fetch(self, url: str) -> Fetched:
        """Fetch one picture.

        Args:
            url: Address, ``http`` or ``https``.

        Returns:
            Where the picture is, or why there is none; nothing is raised for what a server does.

        Raises:
            StoreError: If the folder cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        deadline = Deadline(self.limits.total_timeout, self.stop)
        try:
            found = self._with_retries(url, deadline)
        except FetchProblem as problem:
            return Fetched(url=url, status=problem.status, reason=problem.reason, utc=now)
        return Fetched(url=url, utc=now, **found)  # type: ignore[arg-type]

    def _with_retries(self, url: str, deadline: Deadline) -> Mapping[str, object]:
        for tried in range(self.limits.retries + 1):
            try:
                return self._once(url, deadline)
            except Busy as busy:
                wait = _FIRST_WAIT * 2**tried if busy.wait is None else busy.wait
                if tried == self.limits.retries:
                    raise FetchProblem("unreachable", f"{busy.reason}, {tried + 1} times; try later") from busy
                if wait > min(self.limits.longest_wait, deadline.left()):
                    raise FetchProblem("unreachable", f"{busy.reason}, and asks to wait {wait:.0f} s") from busy
                deadline.pause(wait)
        raise AssertionError("the last try either returns or raises")

    def _once(self, url: str, deadline: Deadline) -> Mapping[str, object]:
        """One walk along the redirects to a picture."""
        backend = GuardedBackend(deadline, allow_private=self.limits.allow_private, resolve=self.resolve)
        try:
            with self._client(backend) as client:
                target, seen = checked(url), set[str]()
                for _ in range(self.limits.redirects + 1):
                    seen.add(str(target))
                    with client.stream("GET", target) as response:
                        if response.status_code not in REDIRECTS:
                            return {**self._taken(response), "final_url": str(target)}
                        target = next_hop(target, response)
                    if str(target) in seen:
                        raise FetchProblem("refused", "redirects in a circle; correct the address")
            raise FetchProblem("refused", f"redirects more than {self.limits.redirects} times; correct the address")
        except httpcore2.TimeoutException as error:
            deadline.left()
            raise FetchProblem("timed-out", f"no answer ({type(error).__name__}); try later, or give more") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise Busy(f"the connection failed ({error or type(error).__name__})") from error

    def _client(self, backend: GuardedBackend) -> httpx2.Client:
        return httpx2.Client(
            transport=GuardedTransport(backend, self.ssl_context),
            trust_env=False,  # neither proxies, which would connect for us, nor credentials from .netrc
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            headers={
                "User-Agent": f"amnestic/{version('amnestic')}",
                "Accept": "image/png, image/jpeg, image/webp",
                "Accept-Encoding": "identity",
            },
            timeout=httpx2.Timeout(self.limits.read_timeout, connect=self.limits.connect_timeout),
        )

    def _taken(self, response: httpx2.Response) -> Mapping[str, object]:
        """The picture of an answer, kept under the name of its content."""
        require_answer(response)
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.limits.max_bytes:
            raise self._too_large(f"{length} bytes")
        partial = self.folder / f".{uuid.uuid4().hex}.partial"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                kind, size, digest = self._streamed(response, file)
            height, width = self._opened(partial)
            name = f"{IMAGES}/{digest}.{kind}"
            (self.folder / IMAGES).mkdir(exist_ok=True)
            partial.replace(self.folder / name)
        except OSError as error:  # that of a connection is one of httpcore2
            raise StoreError(f"{self.folder} cannot be written ({error.strerror or error}); give another --out") from (
                error
            )
        finally:
            partial.unlink(missing_ok=True)
        mime = "image/" + {"jpg": "jpeg"}.get(kind, kind)
        return {"sha256": digest, "bytes": size, "type": mime, "width": width, "height": height, "file": name}

    def _streamed(self, response: httpx2.Response, file: BinaryIO) -> tuple[str, int, str]:
        """Write a body as it comes; end as soon as it is too large or no picture."""
        size, digest, head = 0, hashlib.sha256(), b""
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > self.limits.max_bytes:
                raise self._too_large("it")
            if len(head) < _HEAD:
                head += chunk[:_HEAD]
                if len(head) >= _HEAD:
                    kind_of(head, response)
            digest.update(chunk)
            file.write(chunk)
        return kind_of(head, response), size, digest.hexdigest()

    def _opened(self, path: Path) -> tuple[int, int]:
        """Height and width of a picture that can be decoded; one at a time, since each needs its pixels' memory."""
        try:
            with self._decoding:
                height, width = open_image(path, max_pixels=self.limits.max_pixels).shape[:2]
        except ImageProblem as problem:
            status = "too-large" if problem.reason.startswith("too large") else "unreadable"
            raise FetchProblem(status, problem.reason) from problem
        return height, width

    def _too_large(self, what: str) -> FetchProblem:
        return FetchProblem("too-large", f"{what} exceeds {self.limits.max_bytes} bytes; raise --max-bytes if meant")
