"""What a server's answer means: a picture, another place, try again, or no."""

import time
from email.utils import parsedate_to_datetime

import httpx2

from amnestic.sources.fetching_network import FetchProblem

REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429, 500, 502, 503, 504)
GONE = (404, 410)


class Busy(FetchProblem):
    """Worth another try.

    Attributes:
        wait: Seconds that the server asks for, or `None`.
    """

    wait: float | None

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """Give the reason, and the seconds that the server asks for."""
        super().__init__("unreachable", reason)
        self.wait = wait


def checked(url: str) -> httpx2.URL:
    """An address that may be asked for.

    Args:
        url: As a list or a server names it.

    Returns:
        The same, parsed.

    Raises:
        FetchProblem: If it is no address, of another scheme than http and https, or carries credentials.
    """
    try:
        found = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchProblem("refused", f"no valid address ({error}); correct it") from error
    if found.scheme not in ("http", "https"):
        raise FetchProblem("refused", f"scheme {found.scheme!r}: only http and https are fetched")
    if found.userinfo:
        raise FetchProblem("refused", "carries a user name or password; give an address without")
    if not found.host:
        raise FetchProblem("refused", "names no host; correct it")
    return found.copy_with(fragment=None)


def next_hop(url: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
    """Where a redirect leads, checked like any address.

    Args:
        url: Who answered.
        response: A redirect.

    Raises:
        FetchProblem: If it leads nowhere that may be asked.
    """
    place = response.headers.get("location")
    if not place:
        raise FetchProblem("refused", f"answered {response.status_code} without saying where to go")
    try:
        return checked(str(url.join(place)))
    except (httpx2.InvalidURL, ValueError) as error:
        raise FetchProblem("refused", f"redirects to no valid address ({error})") from error


def require_answer(response: httpx2.Response) -> None:
    """Refuse an answer that brings no file.

    Args:
        response: Anything but a redirect.

    Raises:
        FetchProblem: If the file is gone, or the server will not give it.
        Busy: If it might later.
    """
    code, encoding = response.status_code, response.headers.get("content-encoding", "identity").strip().lower()
    if code in GONE:
        raise FetchProblem("missing", f"the server answered {code}; find another copy")
    if code in BUSY:
        raise Busy(f"the server answered {code}", _asked_wait(response.headers.get("retry-after")))
    if code != httpx2.codes.OK:
        raise FetchProblem("refused", f"the server answered {code}; find another copy")
    if encoding not in ("", "identity"):
        raise FetchProblem("wrong-type", f"sent compressed as {encoding!r}, although asked for the plain file")


def _asked_wait(value: str | None) -> float | None:
    """Seconds of a ``Retry-After``, which may also be a date; `None` if it says nothing usable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def kind_of(head: bytes, response: httpx2.Response) -> str:
    """File extension of a picture by how it starts, whatever the server calls it.

    Args:
        head: The first 16 bytes, or fewer if there are no more.
        response: The answer it came with.

    Returns:
        ``png``, ``jpg`` or ``webp``.

    Raises:
        FetchProblem: If it is none of them.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    told = response.headers.get("content-type", "nothing")[:60]
    raise FetchProblem("wrong-type", f"no PNG, JPEG or WebP (the server calls it {told!r}); find another copy")
