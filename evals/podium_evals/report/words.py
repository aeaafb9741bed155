"""Numbers as people read them: aligned, with as many digits as mean something, and a dash where there is none."""

from __future__ import annotations

import math
import re

NONE = "–"
MINUS = "−"


def quality(value: float | None, digits: int = 4) -> str:
    """Return a measure between 0 and 1 as the literature prints it: .6682."""
    if value is None:
        return NONE
    written = f"{abs(value):.{digits}f}"
    written = written.removeprefix("0") if written.startswith("0.") else written
    return (MINUS if value < 0 and float(written) else "") + written


def signed(value: float | None, digits: int = 4) -> str:
    """Return a difference with its sign: +.1624, −.0017."""
    if value is None:
        return NONE
    written = quality(value, digits)
    return written if written.startswith(MINUS) or not float(written) else f"+{written}"


def p_value(value: float | None) -> str:
    """Return a p-value: .012, or < .001."""
    if value is None:
        return NONE
    return "< .001" if value < 0.001 else quality(value, 3)


def seconds(value: float | None) -> str:
    """Return a time: 8.1 ms, 420 ms, 1.62 s, 3.4 min."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    for below, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (120, 1, "s")):
        if value < below:
            return f"{significant(value * factor)} {unit}"
    return f"{significant(value / 60)} min"


def dollars(value: float | None) -> str:
    """Return money: $0.0042, $1.31, $0, and a dash where no price is known."""
    if value is None:
        return NONE
    return "$0" if value == 0 else f"${significant(value)}"


def count(value: float | None) -> str:
    """Return how many, on average: 9, 100, 3.4, 12,480."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == int(value) else significant(value)


def share(value: float | None) -> str:
    """Return a share of 1 in per cent: 0 %, 2.3 %, 100 %."""
    if value is None:
        return NONE
    percent = 100 * value
    return f"{percent:.0f} %" if percent in (0, 100) or percent >= 10 else f"{significant(percent, 2)} %"


def significant(value: float, digits: int = 3) -> str:
    """Return a positive number with so many significant digits, one less below 1, and never as a power of ten."""
    if value == 0:
        return "0"
    digits -= value < 1
    places = max(0, digits - 1 - math.floor(math.log10(value)))
    return f"{value:,.{places}f}"


def spelled(key: str) -> str:
    """Return a field's name as words: `prompt_tokens` → `prompt tokens`, `ndcg_at_10` → `nDCG@10`."""
    key = re.sub(r"_(s|usd)$", lambda unit: {"s": "", "usd": " $"}[unit[1]], key)
    return re.sub(r"ndcg(_at_|@)?", lambda at: "nDCG@" if at[1] else "nDCG", key).replace("_", " ")


def titled(key: str) -> str:
    """Return a field's name as a heading."""
    written = spelled(key)
    return written[:1].upper() + written[1:]
