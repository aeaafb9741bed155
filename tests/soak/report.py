"""The tables of a fault run."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.soak import watching
from tests.soak.account import GRACE_S
from tests.soak.place import DISK_MIB
from tests.soak.run import Law, Run, median_ms

_VERDICT = {True: "kept", False: "**broken**", None: "not shown"}

_WORDS = (
    f"A request that ends {GRACE_S:g} s behind its deadline is broken, whatever its answer. *no server*: an error of "
    "the transport while there was none; one that began before a SIGTERM is never excused so. *own clock*: the "
    "client's library said DEADLINE_EXCEEDED before the server's answer came. *left*: the client went away."
)


def report(run: Run, command: str) -> str:
    """Return the whole, as Markdown."""
    parts = [
        "# A fault run",
        _head(run, command),
        "## Laws",
        table(("law", "", ""), ((law.name, _VERDICT[law.kept], _cell(law.figure)) for law in run.laws)),
        "## Faults",
        table(
            ("at", "fault", "lasted", "in full again after", ""),
            (
                (
                    f"{fault.at_s:.0f} s",
                    fault.name,
                    f"{fault.lasted_s:.1f} s",
                    "never" if fault.recovered_s is None else f"{fault.recovered_s:.1f} s",
                    _cell("; ".join(fault.notes)),
                )
                for fault in run.faults.done
            ),
        ),
        "## Requests, by the phase in which they began",
        _phases(run),
        "## Clients",
        _clients(run),
        "## Memory and file descriptors",
        _lives(run),
        f"{watching.RULE}.",
        _WORDS,
    ]
    if run.account.details:
        parts += ["## Broken requests", "\n".join(f"- {_cell(each)}" for each in run.account.details)]
    broken = [law for law in run.laws if law.kept is False]
    if broken:
        parts += ["## Broken laws", *(_why(run, law) for law in broken)]
    return "\n\n".join(parts) + "\n"


def _head(run: Run, command: str) -> str:
    kept = all(law.kept for law in run.laws)
    disk = f"a tmpfs of {DISK_MIB} MiB" if run.place.disk_is_small else "an ordinary disk, which was not filled"
    return (
        f"`{command}`, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {_machine()}. "
        f"{run.lasted_s / 60:.1f} minutes under load, seed {run.seed}; the data directory on {disk}. "
        f"{'Every law was kept.' if kept else 'Not every law was kept.'}"
    )


def _why(run: Run, law: Law) -> str:
    if "traceback" in law.name:
        return "```\n" + "\n".join(each.replace(" ⏎ ", "\n") for each in run.server.complaints()[:5]) + "\n```"
    return f"- {law.name}: {_cell(law.figure)}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())[:600]


def _phases(run: Run) -> str:
    rows = []
    for phase, counts in run.account.by_phase.items():
        whole = [
            f"{code.replace('_', ' ').lower()} {count:,}"
            for (kind, code), count in counts.most_common()
            if kind == "answered"
        ]
        typed = [f"{code} {count:,}" for (kind, code), count in counts.most_common() if kind == "typed"]
        others = Counter[str]()
        for (kind, _), count in counts.items():
            if kind not in ("answered", "typed"):
                others[kind] += count
        p50 = f"{median_ms(run.account.latencies_s.get(phase, [])):.0f} ms"
        rest = ", ".join(f"{kind} {count:,}" for kind, count in others.items())
        rows.append((phase, f"{sum(counts.values()):,}", ", ".join(whole), ", ".join(typed), rest, p50))
    return table(("phase", "requests", "answered and checked", "typed errors", "otherwise", "p50 of answers"), rows)


def _clients(run: Run) -> str:
    kinds = ("answered", "typed", "own clock", "no server", "left", "broken")
    rows = [
        (client, *(f"{counts[kind]:,}" for kind in kinds))  # type: ignore[index]
        for client, counts in sorted(run.account.by_client.items())
    ]
    return table(("client", *kinds), rows)


def _lives(run: Run) -> str:
    rows = []
    for life in sorted({sample.life for sample in run.samples}):
        mine = [sample for sample in run.samples if sample.life == life]
        steady = [sample for sample in mine if sample.phase == "steady"]

        def quarters(values: Sequence[float]) -> str:
            if len(values) < 8:
                return "too short"
            size = len(values) // 4
            return " → ".join(f"{statistics.median(values[i * size : (i + 1) * size]):.0f}" for i in range(4))

        rows.append(
            (
                str(life),
                f"{mine[-1].at - mine[0].at:.0f} s",
                quarters([sample.rss_mib for sample in steady]),
                quarters([sample.anonymous_mib for sample in steady]),
                f"{max(sample.rss_mib for sample in mine):.0f}",
                quarters([sample.fds for sample in steady]),
                f"{max(sample.fds for sample in mine)}",
                f"{max(sample.threads for sample in mine)}",
            )
        )
    heads = ("life", "", "RSS, MiB, steady, by quarters", "anonymous", "most", "descriptors", "most", "threads at most")
    return table(heads, rows)


def _machine() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory_gib = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (
        f"{len(names)} × {names[0] if names else platform.machine()}, {memory_gib:.0f} GiB, Python "
        f"{platform.python_version()}, on {head.stdout.strip() or 'no commit'}"
    )
