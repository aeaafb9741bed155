"""The table of a run."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.findings import Findings

if TYPE_CHECKING:
    from tests.fuzz.__main__ import Whole

_MIB = 1 << 20
_KINDS = {
    "protobuf": "damaged messages, over gRPC on a socket",
    "metadata": "hostile metadata, over gRPC on a socket",
    "beside": "damaged messages to health and reflection, on a socket",
    "admin": "damaged messages to the admin service, on a socket",
    "http2": "connections of HTTP/2 by hand (frames, headers, gRPC's prefix)",
    "rest bodies": "damaged bodies and heads, over HTTP on a socket",
    "rest raw": "no good HTTP: lengths, chunks, versions, several at once",
    "schemathesis": "schemathesis by the generated OpenAPI",
    "protobuf inside": "damaged messages, to gRPC's handlers without a socket",
    "metadata inside": "hostile metadata, to gRPC's handlers without a socket",
}


def table(whole: Whole, findings: Findings, command: str) -> str:
    """Return a run as Markdown."""
    inside = sum(tally.inputs for tally in whole.tallies if tally.kind.endswith("inside"))
    lines = [
        "# The fuzz run",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, `{command}`.",
        "",
        (
            f"**{whole.inputs:,} inputs, {findings.count:,} findings.** {whole.inputs - inside:,} went over sockets to "
            "a child process of `podium serve` (two tenants with keys, quotas and collections, REST beside gRPC, a "
            f"scripted judge), {inside:,} to the same handlers without a socket."
        ),
        "",
        "| kind | inputs | per second | answers | findings |",
        "| --- | ---: | ---: | --- | ---: |",
    ]
    for tally in whole.tallies:
        codes = ", ".join(f"{code} {count:,}" for code, count in tally.codes.most_common())
        rate = f"{tally.inputs / tally.seconds:,.0f}" if tally.seconds else ""
        lines.append(
            f"| {_KINDS.get(tally.kind, tally.kind)} | {tally.inputs:,} | {rate} | {codes} | {tally.findings} |"
        )
    lines += ["", *_process(whole), *_laws(), *_found(findings)]
    lines += [f"Left out: {kind}: {why}." for kind, why in whole.left_out.items()]
    return "\n".join(lines).rstrip() + "\n"


def _process(whole: Whole) -> list[str]:
    memory = " → ".join(f"{resident / _MIB:.0f}" for resident, _ in whole.memory)
    files = " → ".join(str(count) for _, count in whole.memory)
    return [
        (
            f"The server's memory after each tenth, in MiB: {memory}. Its open files: {files}. Its log has "
            f"{whole.log_lines:,} lines, which were searched for keys, texts and errors."
        ),
        "",
    ]


def _laws() -> list[str]:
    return [
        (
            "Asked of every answer: that it comes by its deadline and 5 s; a code of the table of errors with its "
            "details, or one that gRPC itself gives; no UNKNOWN, no INTERNAL, no 500; an order that is a permutation "
            "of what was sent; over REST, what the OpenAPI page says; no word that belongs to the other tenant (names, "
            "texts, ids, keys), no path and no stack trace in any byte. Asked of the server at the end: that it lives "
            "and answers, its memory, its open files, its log."
        ),
        "",
    ]


def _found(findings: Findings) -> list[str]:
    if not findings.kept:
        return []
    lines = ["## Findings", "", "| kind, seed, number | target | what | smallest input |", "| --- | --- | --- | --- |"]
    for one in findings.kept:
        said = str(one["wrong"]).replace("|", "\\|").replace("\n", " ")[:300]
        shown = repr(one["input"][:80]).replace("|", "\\|")
        lines.append(f"| {one['kind']}, {one['seed']}, {one['number']} | {one['target']} | {said} | `{shown}` |")
    return [*lines, ""]


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        model = next(found, model)
    return f"{model} ({os.cpu_count()} cores, shared), Python {platform.python_version()}"
