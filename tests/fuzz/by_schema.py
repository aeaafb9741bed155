"""schemathesis against the generated OpenAPI document: cases that the page allows, and cases that it forbids.

It has an environment of its own, `.venv-fuzz`, as the clients have (tests/clients): its plugin for pytest would be
loaded by every run of every test, and hypothesis beside it be held to the versions that it takes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.findings import Findings
from tests.fuzz.http import Answer
from tests.fuzz.page import Page
from tests.fuzz.run import Tally
from tests.fuzz.victim import Victim

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-fuzz"
PYTHON = FOLDER / "bin" / "python"
WANTED = "schemathesis==4.32.5"
_LINE_BYTES_MAX = 64 << 20


def is_there() -> bool:
    """Return whether the environment is built."""
    ready = FOLDER / ".ready"
    return ready.is_file() and ready.read_text("utf-8") == WANTED


def build() -> None:
    """Build the environment from the package registry, unless it is there already."""
    if is_there():
        return
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check", WANTED], check=True)
    (FOLDER / ".ready").write_text(WANTED, "utf-8")


async def phase(numbers: range, seed: int, victim: Victim, page: Page, findings: Findings) -> Tally:
    """Let schemathesis send about so many cases."""
    tally, began, before = Tally("schemathesis"), time.monotonic(), findings.count
    driver = Path(__file__).with_name("schemathesis_driver.py")
    arguments = (victim.url, victim.keys.acme, str(len(numbers)), str(seed * 1_000_003 + numbers.start))
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "-P",  # or `http` and `requests` of this folder would be taken for theirs
        driver,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    stderr = asyncio.create_task(process.stderr.read())
    told = None
    while line := await process.stdout.readline():
        fact = json.loads(line)
        told = fact.get("told", told)
        if "path" not in fact:
            continue
        tally.inputs += 1
        tally.codes[str(fact.get("status", "NONE"))] += 1
        wrong, sent = _judged(fact, page, victim)
        if wrong:
            await findings.add("schemathesis", seed, numbers.start, f"{fact['verb']} {fact['path']}", wrong, sent)
    if await process.wait() != 0 or told is None:
        raise RuntimeError(f"schemathesis ended with {process.returncode}: {(await stderr)[-2_000:].decode()}")
    tally.seconds, tally.findings = time.monotonic() - began, findings.count - before
    return tally


def _judged(fact: dict[str, Any], page: Page, victim: Victim) -> tuple[str, bytes]:
    if "error" in fact:
        return f"no answer: {fact['error']}", b""
    headers = tuple((name.lower(), str(value)) for name, value in fact["headers"].items())
    body, sent = base64.b64decode(fact["body"]), base64.b64decode(fact["sent"])
    answer = Answer(fact["status"], headers, body, repr(headers).encode())
    return page.wrong(answer, sent, victim.secrets, fact["verb"], fact["path"]), sent


if __name__ == "__main__":
    build()
