"""HTML out of values: whatever is not made by `tag` is text, and text is escaped; nothing goes round it by mistake."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any, TypeAlias, Union

VOID = frozenset({"meta", "link", "br", "hr", "input", "line", "circle", "rect", "path"})
"""Elements without an end tag; the SVG ones among them are closed by their slash."""

Child: TypeAlias = Union["Html", str, Iterable["Child"], None]


class Html(str):
    """Markup that is known to be escaped."""

    __slots__ = ()


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: markup as it is, text escaped, None left out, sequences flattened.
        attributes: `class_` is `class`, `data_v` is `data-v`; True is an attribute without a value; None and False are
            left out.

    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Return children one after another."""
    return Html("".join(map(_child, children)))


def script_data(name: str, data: Any) -> Html:
    """Return data as a block that scripts read by its id. No text in it can end the block or begin a comment."""
    text = clean(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def clean(text: str) -> str:
    """Return text that UTF-8 can write: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _child(child: Child) -> str:
    match child:
        case None:
            return ""
        case Html():
            return child
        case str():
            return html.escape(clean(child))
        case _:
            return join(child)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(clean(str(value)))}"'
