"""Checksums as one text that ``sha256sum -c`` reads; each set of them has one spelling."""

import os
import re
from collections.abc import Collection, Mapping

LINE = re.compile(rb"(\\?)([0-9a-f]{64})  ([^\n]+)")
ESCAPED = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}


def sums_text(sums: Mapping[str, str]) -> bytes:
    """Content of ``SHA256SUMS``, sorted by name.

    Args:
        sums: Checksums by name.

    Example:
        >>> sums_text({"b": "0" * 64, "a": "f" * 64}).split()[1::2]
        [b'a', b'b']
    """
    lines = []
    for name in ordered(sums):
        raw = os.fsencode(name)
        safe = re.sub(rb"[\\\n\r]", lambda found: ESCAPED[found[0]], raw)
        lines.append((b"\\" if safe != raw else b"") + sums[name].encode() + b"  " + safe + b"\n")
    return b"".join(lines)


def read_sums(content: bytes) -> dict[str, str] | None:
    """Checksums by name; `None` unless the content is exactly what `sums_text` writes for names inside a folder.

    Args:
        content: Of ``SHA256SUMS``.

    Example:
        >>> read_sums(sums_text({"a": "f" * 64})) == {"a": "f" * 64}, read_sums(b"nonsense")
        (True, None)
    """
    back, found = {v: k for k, v in ESCAPED.items()}, dict[str, str]()
    for row in content.split(b"\n")[:-1]:
        parts = LINE.fullmatch(row)
        if parts is None:
            return None
        raw = re.sub(rb"\\.", lambda two: back.get(two[0], two[0]), parts[3]) if parts[1] else parts[3]
        found[os.fsdecode(raw)] = parts[2].decode()
    inside = all(not {"", ".", ".."} & set(name.split("/")) for name in found)
    return found if inside and sums_text(found) == content else None


def ordered(names: Collection[str]) -> tuple[str, ...]:
    """Names sorted as bytes, so that no locale changes the order.

    Example:
        >>> ordered({"b", "a", "B"})
        ('B', 'a', 'b')
    """
    return tuple(sorted(names, key=os.fsencode))
