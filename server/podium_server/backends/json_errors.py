"""What an endpoint says when it refuses: JSON in any of the shapes that are about, or no JSON at all. No I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error reply says."""

    message: str
    code: str = ""
    param: str = ""


def error_body(raw: bytes) -> ErrorBody:
    """Read the body of an error, in any of the shapes that are about."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return ErrorBody(what(raw))
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, str):
        return ErrorBody(_line(inner))
    if not isinstance(inner, dict):
        return ErrorBody(start(raw))
    said = inner.get("message") or inner.get("detail") or inner.get("msg")
    if isinstance(said, list):  # FastAPI's list of what is wrong, each with its place
        first = said[0] if said and isinstance(said[0], dict) else {}
        place = first.get("loc")
        where = ".".join(str(part) for part in place if part != "body") if isinstance(place, list) else ""
        return ErrorBody(_line(f"{where}: {first.get('msg', said)}"), param=where)
    code, param = inner.get("code") or inner.get("type"), inner.get("param")
    return ErrorBody(
        _line(said) if isinstance(said, str) else start(raw),
        code=str(code or ""),
        param=param if isinstance(param, str) else "",
    )


def what(raw: bytes) -> str:
    """Say what a body is that should have been JSON."""
    head = raw[:256].lstrip().lower()
    if not raw:
        return "an empty body"
    if head.startswith((b"<!doctype html", b"<html", b"<head")):
        title = re.search(rb"<title>(.*?)</title>", raw[:4096], re.IGNORECASE | re.DOTALL)
        return f"an HTML page ({_line(title[1].decode('utf-8', 'replace')) if title else 'without a title'})"
    if head.startswith((b"{", b"[")):
        return f"JSON that breaks off or is wrong, {len(raw)} bytes"
    return f"no JSON: {start(raw)}"


def start(raw: bytes) -> str:
    """Return how a body begins, on one line."""
    return _line(raw[:200].decode("utf-8", "replace"))


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + "…"
