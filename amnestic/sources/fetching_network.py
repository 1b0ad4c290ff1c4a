"""Connections to hosts that a stranger's list names: which addresses may be reached, and for how long.

A name is looked up once, every address it stands for is checked, and the connection goes to the very address that was
checked. What the name means a moment later, or what a proxy would make of it, does not matter.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore2
import httpx2

from amnestic.core.errors import InputError

Resolve = Callable[[str, int], Sequence[str]]
"""Called with host and port; the addresses as text."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
CARRIES_IPV4 = tuple(IPv6Network(n) for n in ("::/96", "64:ff9b::/96"))
MOST_ADDRESSES = 4


class FetchProblem(InputError):
    """An image cannot be had.

    Attributes:
        status: ``missing``, ``too-large``, ``wrong-type``, ``timed-out``, ``refused``, ``unreachable`` or
            ``unreadable``.
        reason: Why, and what to do.
    """

    def __init__(self, status: str, reason: str) -> None:
        """Give status and reason."""
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet and to one host.

    IPv4 addresses inside IPv6 ones (mapped, compatible, NAT64, 6to4, Teredo) are judged as what they stand for.

    Args:
        address: IPv4 or IPv6, as text.

    Returns:
        False for private, loopback, link-local, shared, reserved, unspecified and multicast addresses.

    Example:
        >>> [is_public(a) for a in ("93.184.215.14", "10.0.0.1", "127.0.0.1", "169.254.169.254", "224.0.0.1")]
        [True, False, False, False, False]
        >>> [is_public(a) for a in ("2606:4700::1111", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "fe80::1")]
        [True, False, False, False, False]
    """
    found = ip_address(address)
    within = _carried(found) if isinstance(found, IPv6Address) else ()
    if within:
        return all(is_public(str(a)) for a in within)
    if isinstance(found, IPv6Address) and found not in GLOBAL_UNICAST:
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _carried(address: IPv6Address) -> tuple[IPv4Address, ...]:
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if any(address in network for network in CARRIES_IPV4):
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


class Deadline:
    """The time that one image may take, whatever the server does."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        """Start the clock; `stop` ends it early."""
        self._seconds, self._end, self._stop = seconds, time.monotonic() + seconds, stop

    def left(self, most: float | None = None) -> float:
        """Seconds left, at most `most`.

        Raises:
            FetchProblem: If there are none.
        """
        if self._stop.is_set():
            raise FetchProblem("timed-out", "stopped; issue the command again to continue")
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchProblem("timed-out", f"took longer than {self._seconds:g} s in all; try later, or give more")
        return left if most is None else min(left, most)

    def pause(self, seconds: float) -> None:
        """Wait, unless stopped."""
        self._stop.wait(seconds)


def addresses_of(host: str, port: int) -> Sequence[str]:
    """Addresses of a host as the system knows them.

    Raises:
        OSError: If it knows none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedBackend(httpcore2.NetworkBackend):
    """Opens connections to public addresses only, and ends them in time."""

    def __init__(self, deadline: Deadline, *, allow_private: bool, resolve: Resolve = addresses_of) -> None:
        """Say how long, and whether private addresses may be reached; `resolve` looks names up."""
        self._deadline, self._allow_private, self._resolve = deadline, allow_private, resolve
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address of the host that may be reached and answers.

        Raises:
            FetchProblem: If none may be reached, or the host is unknown.
        """
        allowed = self._allowed(host, self._looked_up(host, port, self._deadline.left(timeout)))
        refused: Exception | None = None
        for address in allowed[:MOST_ADDRESSES]:
            try:
                stream = self._plain.connect_tcp(
                    address, port, self._deadline.left(timeout), local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                refused = error
            else:
                return _TimedStream(stream, self._deadline)
        raise refused or FetchProblem("unreachable", f"{host} has no address; check the name, or the connection")

    def _allowed(self, host: str, addresses: Sequence[str]) -> list[str]:
        allowed = [a for a in addresses if is_public(a) or (self._allow_private and _is_private_host(a))]
        if addresses and not allowed:
            who = host if host == addresses[0] else f"{host}, which stands for {addresses[0]},"
            raise FetchProblem("refused", f"{who} is no public address; --allow-private allows private ones")
        return allowed

    def _looked_up(self, host: str, port: int, seconds: float) -> Sequence[str]:
        """Addresses of a host; the system's own look-up knows no time limit, so it gets a thread to hang in."""
        found: list[Sequence[str]] = []
        failed: list[Exception] = []

        def look() -> None:
            try:
                found.append(self._resolve(host, port))
            except (OSError, UnicodeError) as error:
                failed.append(error)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(seconds)
        if failed:
            raise FetchProblem("unreachable", f"{host} is not known ({failed[0]}); check the name, or the connection")
        if not found:
            raise FetchProblem("timed-out", f"the address of {host} was not told within {seconds:.3g} s; try later")
        return found[0]


def _is_private_host(address: str) -> bool:
    """Whether an address that is not public belongs to one host all the same."""
    found = ip_address(address)
    carried = _carried(found) if isinstance(found, IPv6Address) else ()
    return not any(a.is_multicast or a.is_unspecified for a in (*carried, found))


class _TimedStream(httpcore2.NetworkStream):
    """A connection on which nothing takes longer than the deadline, not even a byte at a time."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as the interface has it
        return self._stream.get_extra_info(info)


class GuardedTransport(httpx2.BaseTransport):
    """What an `httpx2.Client` sends through: connections of a `GuardedBackend`, none of them kept or shared."""

    def __init__(self, backend: GuardedBackend, ssl_context: ssl.SSLContext) -> None:
        """Say who opens connections, and which certificates are trusted."""
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl_context, network_backend=backend, max_connections=2, max_keepalive_connections=0
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer to one request; errors are those of httpcore2."""
        url = request.url
        answer = self._pool.handle_request(
            httpcore2.Request(
                request.method,
                httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=b"",
                extensions=request.extensions,
            )
        )
        return httpx2.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer.iter_stream())

    def close(self) -> None:
        self._answer.close()
