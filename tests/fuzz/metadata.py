"""What may stand beside a message: keys of all sorts, deadlines, correlation ids, headers without end.

Only what a client of gRPC lets out; `http2` sends the rest. `{acme}` and the like stand for keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

Pairs = tuple[tuple[str, str | bytes], ...]

MINE: Pairs = (("authorization", "Bearer {acme}"),)
OTHERS = ("{held}", "{small}", "{revoked}", "{expired}", f"podium_{'0' * 16}_{'A' * 43}", "podium_", "x")

_KEYS: Sequence[Pairs] = (
    (),
    *((("authorization", f"Bearer {key}"),) for key in OTHERS),
    *((("x-api-key", key),) for key in ("{acme}", *OTHERS)),
    *((("authorization", value),) for value in ("bearer {acme}", "Bearer  {acme}", "Bearer\t{acme}", "{acme}", "")),
    *((("authorization", value),) for value in ("Basic {acme}", "Bearer", "Bearer ", "Bearer {acme} {acme}")),
    *((("authorization", value),) for value in ("Bearer {acme},Bearer {small}", "Bearer {acme}x", "Bearer x{acme}")),
    (("authorization", "Bearer {acme}"), ("authorization", "Bearer {small}")),
    (("authorization", "Bearer x"), ("authorization", "Bearer {acme}")),
    (("authorization", "Bearer {acme}"), ("x-api-key", "{small}")),
    (("authorization", ""), ("x-api-key", "{acme}")),
    (("authorization-bin", b"Bearer {acme}"),),
    (("x-api-key", "{acme}"), ("x-api-key", "{acme}")),
    MINE,
    MINE,
    MINE,
)
_IDS = (
    "",
    " ",
    "r",
    "a" * 128,
    "a" * 129,
    "a" * 4_000,
    "{not json",
    "%0a%0d",
    "x=1 code=OK",
    '"}',
    "../..",
    "\x7f" * 3,
)
_PARENTS = (
    f"00-{'a' * 32}-{'b' * 16}-01",
    f"00-{'0' * 32}-{'0' * 16}-00",
    f"ff-{'a' * 32}-{'b' * 16}-01",
    f"00-{'A' * 32}-{'B' * 16}-01",
    f"00-{'a' * 31}-{'b' * 16}-01",
    *("", "-", "00-", "a" * 3_000, f"00-{'a' * 32}-{'b' * 16}-01-more"),
)
TIMEOUTS_S = (0.000_001, 0.001, 0.01, 0.05, *(8.0,) * 20)


def hostile(chance: Random) -> Pairs:
    """Return metadata as no good caller sends it, or nearly so."""
    made: list[tuple[str, str | bytes]] = list(chance.choice(_KEYS))
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        made += _more(chance)
    chance.shuffle(made)
    return tuple((key, _printable(value)) for key, value in made)


def _more(chance: Random) -> Pairs:
    match chance.randrange(9):
        case 0 | 1:
            return (("x-request-id", chance.choice(_IDS)),)
        case 2:
            return (("traceparent", chance.choice(_PARENTS)), ("tracestate", chance.choice(_IDS)))
        case 3:
            return (("x-podium-timeout-ms", chance.choice(("0", "-1", "1", "1e9", "nan", "9" * 30))),)
        case 4:
            return (("some-bin", chance.randbytes(chance.choice((0, 1, 40, 2_000)))),)
        case 5:
            return tuple((f"k{i}", "v" * chance.choice((0, 10))) for i in range(chance.choice((5, 40, 150))))
        case 6:
            return ((chance.choice(("a.b", "a_b", "a-b", "x" * 200, "0")), chance.choice(_IDS)),)
        case 7:
            return (("x-bomb", "b" * chance.choice((1_000, 7_000, 9_000, 17_000))),)
        case _:
            return (("x-request-id-bin", chance.randbytes(8)), ("x-request-id", "a"), ("x-request-id", "b"))


def _printable(value: str | bytes) -> str | bytes:
    """Return what a client of gRPC sends: printable ASCII, or bytes."""
    return value if isinstance(value, bytes) else "".join(letter for letter in value if " " <= letter <= "~")
