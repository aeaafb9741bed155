"""Lists, a page at a time. A token says after which name to go on, so that what comes and goes disturbs nobody."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from podium_server.errors import InvalidRequest

T = TypeVar("T")

_SIZE_UNSET = 100
_SIZE_MAX = 1_000


def page(items: Sequence[T], name_of: Callable[[T], str], *, kind: str, size: int, token: str) -> tuple[list[T], str]:
    """Return a page of items by name, and the token of the next one; empty where this is the last.

    Args:
        items: all of them.
        name_of: by which they are listed.
        kind: of list; a token of one is none of another.
        size: as the caller asked for.
        token: likewise.

    Raises:
        InvalidRequest: a negative size, or a token that no page gave.

    """
    if size < 0:
        raise InvalidRequest("page_size", f"is {size}; at least 0, where 0 is {_SIZE_UNSET}")
    size = min(size, _SIZE_MAX) or _SIZE_UNSET
    after = _read(token, kind) if token else None
    left = sorted((item for item in items if after is None or name_of(item) > after), key=name_of)
    shown = left[:size]
    return shown, _written(name_of(shown[-1]), kind) if len(left) > size else ""


def _written(name: str, kind: str) -> str:
    return base64.urlsafe_b64encode(_sum(name, kind) + name.encode()).decode()


def _read(token: str, kind: str) -> str:
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        name = raw[4:].decode()
    except (binascii.Error, UnicodeError):
        raw, name = b"", ""
    if not raw or raw[:4] != _sum(name, kind):
        raise InvalidRequest("page_token", "is no token that a page of this list gave; begin with an empty one")
    return name


def _sum(name: str, kind: str) -> bytes:
    return zlib.crc32(f"{kind}\0{name}".encode()).to_bytes(4, "big")
