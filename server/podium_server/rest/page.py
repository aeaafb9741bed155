"""`/docs`: the endpoints as one page of HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from podium_server.rest.endpoints import Endpoint

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2rem; } table { border-collapse: collapse; width: 100%; }
td { padding: .3rem 1rem .3rem 0; border-top: 1px solid #8884; vertical-align: top; } code { font-size: .95em; }
"""


def page(endpoints: Sequence[Endpoint], version: str) -> str:
    """Return the page."""
    sections = []
    for tag, each in groupby(sorted(endpoints, key=lambda one: one.tag), key=lambda one: one.tag):
        rows = "".join(
            f"<tr><td>{one.verb}</td><td><code>{escape(one.path)}</code></td><td>{escape(one.summary)}</td></tr>"
            for one in each
        )
        sections.append(f"<h2>{escape(tag)}</h2><table>{rows}</table>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Podium {escape(version)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>Podium {escape(version)}</h1>"
        '<p>All of it, with types: <a href="/openapi.json">openapi.json</a>. '
        "<code>model</code> names a pipeline.</p>"
        f"{''.join(sections)}</body></html>"
    )
