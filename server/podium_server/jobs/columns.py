"""The columns that lines of JSON make: one type each, which every line's value fits, whatever the first lines held."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["bool", "int", "float", "text", "list", "object", "json"]

Fitter: TypeAlias = Callable[[Any], Any]

FIELDS_MAX = 256
"""Of an object. One with more names has data for names (ids, say), and is no struct."""
_INT_BITS = 63


@dataclass(slots=True)
class Column:
    """What the values of one place in a line have been so far. Seeing more widens it, and never narrows it.

    A place whose values have no one type is text: numbers and strings side by side, as ids are, as what they are
    written as; anything else that is mixed, and an object of no or of too many names, as JSON.

    Args:
        seen: kinds of its values; `null` is none, `long` is a whole number that 64 bits do not hold.
        item: of its lists.
        fields: of its objects, by name.

    """

    seen: set[str] = field(default_factory=set)
    item: Column | None = None
    fields: dict[str, Column] = field(default_factory=dict)

    @classmethod
    def of(cls, *seen: str, item: Column | None = None, **fields: Column) -> Column:
        """Return a column whose kind is known before a line is read."""
        return cls(set(seen), item, fields)

    def see(self, value: Any) -> None:
        """Take a value of a line: `None`, or what JSON makes of anything else."""
        match value:
            case dict():
                self.seen.add("object")
                for name, inner in value.items():
                    if name in self.fields or len(self.fields) <= FIELDS_MAX:
                        self.fields.setdefault(name, Column()).see(inner)
            case list():
                self.seen.add("list")
                self.item = self.item or Column()
                if set(map(type, value)) <= {str}:
                    self.item.seen.update(["text"] if value else ())
                else:
                    for inner in value:
                        self.item.see(inner)
            case _ if value is not None:
                self.seen.add(_scalar(value))

    @property
    def kind(self) -> Kind:
        """The type that all values fit. Where none was seen but null: text."""
        match sorted(self.seen):
            case ["bool" | "int" | "float" | "text" | "list" as only]:
                return only
            case ["object"] if 0 < len(self.fields) <= FIELDS_MAX:
                return "object"
            case ["float", "int"]:
                return "float"
            case [] | ["int", "text"]:
                return "text"
        return "json"

    def fitter(self) -> Fitter:
        """Return what makes of a value that was seen one in the column's type. Made once, when all was seen."""
        match self.kind:
            case "object":
                inner = {name: column.fitter() for name, column in self.fields.items()}
                return lambda value: (
                    None if value is None else {name: fit(value.get(name)) for name, fit in inner.items()}
                )
            case "list":
                fit = (self.item or Column()).fitter()
                return lambda value: None if value is None else list(map(fit, value))
            case "float":
                return lambda value: None if value is None else float(value)
            case "text":
                return _text
            case "json":
                return lambda value: None if value is None else _text(json.dumps(value, ensure_ascii=False))
        return lambda value: value


def _scalar(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int" if value.bit_length() <= _INT_BITS else "long"
        case float():
            return "float"
    return "text"


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value)
    # A lone surrogate, which JSON can write as an escape and UTF-8 cannot, is told as that escape.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
