"""Strategies by name. Ours and a third party's come in by the same door: the entry points `podium.strategies`.

Nothing is imported until it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from podium_strategies.plan import Strategy

GROUP = "podium.strategies"


class UnknownStrategy(LookupError):
    """No strategy of that name is installed. `name` and `known` say which was asked for and which there are."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"no strategy is named {name!r}{hint} (installed: {', '.join(known)})")
        self.name = name
        self.known = known


class InvalidOption(ValueError):
    """An option that the strategy does not have, or a value that it cannot have."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a strategy, for catalogues and messages. `default` is None where it must be given."""

    name: str
    type: str
    default: Any
    required: bool


@cache
def installed() -> Mapping[str, EntryPoint]:
    """Return all installed strategies by name, as they were when a process first asked.

    Once a process: looking opens a file of every installed distribution, which takes tens of milliseconds, and a
    request that brings its own stages would do it for each of them.
    """
    made: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        made.setdefault(point.name, point)
    return made


def names() -> tuple[str, ...]:
    """Return the names of all installed strategies, sorted."""
    return tuple(sorted(installed()))


def load(name: str) -> type[Strategy]:
    """Import and return the strategy class of that name.

    Raises:
        UnknownStrategy: nothing of that name is installed.
        TypeError: what is installed under that name is no `Strategy`.

    """
    point = installed().get(name)
    if point is None:
        raise UnknownStrategy(name, names())
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Strategy)):
        raise TypeError(f"the strategy {name!r} is {point.value}, which is no subclass of Strategy")
    return loaded


def options(strategy: type[Strategy]) -> tuple[Option, ...]:
    """Return the options of a strategy class: the fields of its dataclass."""
    return tuple(
        Option(
            name=item.name,
            type=str(item.type),
            default=None if item.default is MISSING else item.default,
            required=item.default is MISSING and item.default_factory is MISSING,
        )
        for item in fields(strategy)  # type: ignore[arg-type]  # every strategy is a dataclass; Strategy itself is not
    )


def build(name: str, given: Mapping[str, Any]) -> Strategy:
    """Return the strategy of that name with these options.

    Raises:
        UnknownStrategy: nothing of that name is installed.
        InvalidOption: the message names the option, the value, and what there is.

    """
    strategy = load(name)
    known = {option.name: option for option in options(strategy)}
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            listed = ", ".join(known) or "none"
            raise InvalidOption(f"{name} has no option {key!r}{hint} (it has: {listed})")
    for option in known.values():
        if option.required and option.name not in given:
            raise InvalidOption(f"{name} needs the option {option.name!r}")
    for key, value in given.items():
        _check_type(name, known[key], value)
    try:
        return strategy(**given)
    except (ValueError, TypeError) as error:
        raise InvalidOption(f"{name}: {error}") from error


_PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def _check_type(name: str, option: Option, value: Any) -> None:
    """Refuse a value of the wrong plain type. Types that are not plain are the dataclass's own to check."""
    wanted = [part.strip() for part in option.type.split("|")]
    if value is None and "None" in wanted:
        return
    plain = [kind for part in wanted for kind in _PLAIN.get(part, ())]
    if not plain or any(part not in _PLAIN and part != "None" for part in wanted):
        return
    if not isinstance(value, tuple(plain)) or (isinstance(value, bool) and bool not in plain):
        raise InvalidOption(f"{name}: {option.name} is {value!r}, which is no {' or '.join(wanted)}")
