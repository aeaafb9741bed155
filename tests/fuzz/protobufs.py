"""Damage to serialized messages: to fields, lengths, varints and nesting where the bytes can be read, and to bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

VARINT, FIXED64, LENGTH, START, END, FIXED32 = range(6)

NUMBERS = (0, 1, 2, 3, 7, 16, 99, 127, 128, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63)
MINUS = tuple(2**64 - n for n in (1, 2, 1000, 2**31))
DOUBLES = (0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 2.0**53)
STRINGS: tuple[bytes, ...] = (
    *(
        b"",
        b" ",
        b"\0",
        b"a\0b",
        b"\n",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x8d",
    ),
    *("\u202e".encode(), "e\u0301".encode(), "🍕".encode(), "\ufeffq".encode(), b"A" * 600, b"A" * 70_000),
    *(
        b"../../etc/passwd",
        b"%s%n%p",
        b"'; DROP TABLE documents; --",
        b"${jndi:ldap://x}",
        b"{}",
        b"null",
        b"NaN",
        b"-1",
    ),
    *(b"plain", b"judged", b"vectors", b"sim", b"minilm", b"books", b"scratch", b"first-stage", b"sliding-window"),
    *(b"pairwise-round-robin", b"fusion", b"cascade", b"mmr", b"pointwise", b"late-interaction", b"cosine", b"type."),
    *(b"rival.books", b"rival", b"acme.books", b".", b"..", b"/", b"a.b", b"books.", b".books"),
)
FIELD_NUMBERS = (1, 2, 3, 4, 5, 9, 15, 16, 19_000, 2**29 - 1)
DEPTHS = (2, 5, 20, 99, 101, 400)
COPIES = (1, 1, 2, 5, 40)
BYTES_MAX = 200_000
"""Of a damaged message. Limits of sizes have tests of their own; here they would only take the time."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field on the wire. `inner` has the fields of what can be read as a message; `value` any other bytes."""

    number: int
    kind: int
    value: bytes = b""
    inner: tuple[Field, ...] | None = None
    lie: int = 0
    """Added to the length."""

    def write(self) -> bytes:
        """Return its bytes."""
        value = self.value if self.inner is None else written(self.inner)
        head = varint(self.number << 3 | self.kind)
        if self.kind == LENGTH:
            return head + varint(max(0, len(value) + self.lie)) + value
        return head + value


def varint(value: int, *, longer: int = 0) -> bytes:
    """Return a number as protobuf writes it; `longer` adds bytes that say nothing."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    for _ in range(longer):
        made[-1] |= 0x80
        made.append(0)
    return bytes(made)


def written(fields: Sequence[Field]) -> bytes:
    """Return the bytes of fields."""
    return b"".join(field.write() for field in fields)


def read(data: bytes, depth: int = 0) -> tuple[Field, ...] | None:
    """Return the fields of a message; None where the bytes are none."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint_at(data, at)
        number, kind = tag >> 3, tag & 7
        if tag < 0 or number == 0:
            return None
        if kind == VARINT:
            end = _varint_at(data, at)[1]
        elif kind in (FIXED64, FIXED32):
            end = at + (8 if kind == FIXED64 else 4)
        elif kind == LENGTH:
            size, at = _varint_at(data, at)
            end = at + size if size >= 0 else len(data) + 1
        else:
            return None
        if not at <= end <= len(data):
            return None
        value = data[at:end]
        inner = read(value, depth + 1) if kind == LENGTH and value and depth < 12 else None
        fields.append(Field(number, kind, b"" if inner is not None else value, inner))
        at = end
    return tuple(fields)


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return -1, len(data) + 1


# --- damage ---------------------------------------------------------------------------------------------------------


def damaged(data: bytes, chance: Random, other: bytes = b"") -> bytes:
    """Return a message with up to four things wrong, or different, in it.

    Args:
        data: a good message.
        chance: decides.
        other: a message from which parts may come.

    """
    fields = read(data)
    if fields is not None and chance.random() < 0.85:
        strangers = read(other) or ()
        for _ in range(chance.choice((1, 1, 2, 3, 4))):
            fields = _somewhere(fields, chance, strangers)
        data = written(fields)
    if chance.random() < 0.25:
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = chance.choice(_BYTES)(data, chance)
    return data[:BYTES_MAX]


def _somewhere(fields: tuple[Field, ...], chance: Random, strangers: tuple[Field, ...]) -> tuple[Field, ...]:
    """Return the fields with one of them, or of those inside one, damaged."""
    if not fields:
        return (Field(chance.choice(FIELD_NUMBERS), LENGTH, chance.choice(STRINGS)),)
    place = chance.randrange(len(fields))
    one = fields[place]
    if one.inner is not None and chance.random() < 0.7:
        instead: tuple[Field, ...] = (replace(one, inner=_somewhere(one.inner, chance, strangers)),)
    else:
        instead = chance.choice(_FIELDS)(one, chance)
        if strangers and chance.random() < 0.05:
            instead = (*instead, chance.choice(strangers))
    return (*fields[:place], *instead, *fields[place + 1 :])


def _drop(_field: Field, _chance: Random) -> tuple[Field, ...]:
    return ()


def _copies(field: Field, chance: Random) -> tuple[Field, ...]:
    return (field,) * (1 + chance.choice(COPIES))


def _renumber(field: Field, chance: Random) -> tuple[Field, ...]:
    return (replace(field, number=chance.choice(FIELD_NUMBERS)),)


def _unknown(field: Field, chance: Random) -> tuple[Field, ...]:
    return (field, Field(chance.choice((2_000, 2**29 - 1)), LENGTH, chance.choice(STRINGS)))


def _kind(field: Field, chance: Random) -> tuple[Field, ...]:
    return (replace(field, kind=chance.choice((0, 1, 2, 3, 4, 5, 6, 7))),)


def _number(field: Field, chance: Random) -> tuple[Field, ...]:
    value = varint(chance.choice(NUMBERS + MINUS), longer=chance.choice((0, 0, 0, 1, 8)))
    return (replace(field, kind=VARINT, value=value, inner=None),)


def _double(field: Field, chance: Random) -> tuple[Field, ...]:
    return (replace(field, kind=FIXED64, value=struct.pack("<d", chance.choice(DOUBLES)), inner=None),)


def _string(field: Field, chance: Random) -> tuple[Field, ...]:
    return (replace(field, kind=LENGTH, value=chance.choice(STRINGS), inner=None),)


def _lie(field: Field, chance: Random) -> tuple[Field, ...]:
    return (replace(field, lie=chance.choice((-3, -1, 1, 5, 1_000, 2**31, 2**40))),)


def _deeper(field: Field, chance: Random) -> tuple[Field, ...]:
    # As bytes: a tree of so many levels would exhaust this program's stack first.
    for _ in range(chance.choice(DEPTHS)):
        field = Field(field.number, LENGTH, field.write())
    return (field,)


def _fit(field: Field, chance: Random) -> tuple[Field, ...]:
    """Damage it as its kind asks for, so that much of it is still read."""
    if field.kind == VARINT:
        return _number(field, chance)
    if field.kind == FIXED64:
        return _double(field, chance)
    return _string(field, chance)


_FIELDS: tuple[Callable[[Field, Random], tuple[Field, ...]], ...] = (
    *(_fit, _fit, _fit, _fit, _drop, _copies, _renumber, _unknown, _kind, _number, _double, _string, _lie, _deeper),
)


def _flip(data: bytes, chance: Random) -> bytes:
    if not data:
        return b"\xff"
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def _insert(data: bytes, chance: Random) -> bytes:
    place = chance.randint(0, len(data))
    return data[:place] + chance.randbytes(chance.choice((1, 1, 4, 30))) + data[place:]


def _cut(data: bytes, chance: Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _leave_out(data: bytes, chance: Random) -> bytes:
    place = chance.randint(0, len(data))
    return data[:place] + data[place + chance.choice((1, 2, 10)) :]


def _again(data: bytes, chance: Random) -> bytes:
    start = chance.randint(0, len(data))
    part = data[start : start + chance.choice((1, 8, 100))]
    return data[:start] + part * chance.choice((2, 3, 20)) + data[start + len(part) :]


_BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (_flip, _flip, _insert, _cut, _leave_out, _again)
