"""The server that is fuzzed: a child process of `podium serve` with two tenants, and what belongs to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podium_server import config
from podium_server.access.access import key_file
from podium_server.config import Config
from tests.backends.naughty import Behaviour, Naughty, Request, reply
from tests.fuzz.laws import Secrets

CANARY = "qzcanary"
"""In everything that is the rival's. No input has it but those that ask for the rival's names."""
RIVAL_PIPELINE = f"{CANARY}-pipeline"
RIVAL_COLLECTION = f"{CANARY}-vault"
RIVAL_TEXT = f"{CANARY}-text"
RIVAL_ID = f"{CANARY}-id"
RIVAL_DESCRIPTION = f"{CANARY}-description"
MARK = "zzprivate"
"""In every document and query of everybody: the log may have none of it."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_S = 120.0
_MANY = 10**12
_PLACE = re.compile(r"\{(acme|held|small|rival|revoked|expired)\}")
_LISTENING = re.compile(r"listening on (\S+)")


def settings(data_dir: Path, judge_url: str, *, rest: bool = True, admin_port: int | None = None) -> dict[str, Any]:
    """Return the configuration: keys, quotas, cheap pipelines, one that is the rival's alone, and a scripted judge."""
    plain = {"stages": [{"strategy": "first-stage"}]}
    by_vectors = {"strategy": "pointwise", "model": "minilm", "scoring": "cosine"}
    window = {"strategy": "sliding-window", "model": "sim", "size": 4, "stride": 2}
    quotas = [{"per": "day", "requests": _MANY, "tokens": _MANY, "pairs": _MANY}]
    made: dict[str, Any] = {
        "server": {"data_dir": str(data_dir), "default_pipeline": "plain", "verdict_cache_mib": 16},
        "models": {
            "minilm": {"backend": "openvino", "model": "all-minilm-l6-v2", "cache_mib": 8},
            "sim": {"backend": "openai", "model": "sim", "base_url": judge_url, "prices": {"prompt_usd_per_mtok": 0.1}},
        },
        "pipelines": {
            "plain": plain,
            "vectors": {"stages": [by_vectors]},
            "judged": {"stages": [window | {"keep": 8}]},
            "two": {"stages": [by_vectors | {"keep": 6}, window]},
            RIVAL_PIPELINE: plain | {"description": RIVAL_DESCRIPTION},
        },
        "access": {"keys": True, "reflection": "guarded", "health": "open"},
        "tenants": {
            "acme": {"pipelines": ["plain", "vectors", "judged", "two"], "inline": True, "quotas": quotas},
            "rival": {"quotas": quotas},
            "small": {"pipelines": ["plain"], "quotas": [{"per": "day", "requests": 20}], "concurrency": 2},
        },
        "telemetry": {"logs": "json", "log_level": "INFO"},
        "limits": {"documents": 500, "questions": 60, "document_bytes": 100_000, "message_bytes": 1 << 20},
    }
    if rest:
        made["rest"] = {"models": {"rerank-v3.5": "plain"}, "body_timeout_s": 5.0, "header_timeout_s": 3.0}
    if admin_port is not None:
        made["admin"] = {"port": admin_port}
    return made


@dataclass(frozen=True, slots=True)
class Keys:
    """Whole API keys, by what they are good for."""

    acme: str
    held: str
    """Acme's, for one pipeline and one collection."""
    small: str
    rival: str
    revoked: str
    expired: str

    def said(self, text: str) -> str:
        """Return a text with `{acme}` and so on replaced by the keys; inputs of a seed are the same in every run."""
        return _PLACE.sub(lambda found: str(getattr(self, found[1])), text) if "{" in text else text


def make_keys(configuration: Config, data_dir: Path) -> Keys:
    """Return new keys, kept where the server reads them."""
    file = key_file(configuration, data_dir)
    held, _ = file.create("acme", pipelines=frozenset(["plain"]), collections=frozenset(["books"]))
    revoked, row = file.create("rival")
    file.revoke(row.id)
    expired, _ = file.create("rival", expires_s=time.time() + 0.01)
    return Keys(
        acme=file.create("acme")[0],
        held=held,
        small=file.create("small")[0],
        rival=file.create("rival")[0],
        revoked=revoked,
        expired=expired,
    )


def secrets_of(keys: Keys, data_dir: Path) -> Secrets:
    """Return what nobody but the rival may see. A revoked key's own id is told to whoever shows it."""
    words = (RIVAL_PIPELINE, RIVAL_COLLECTION, RIVAL_TEXT, RIVAL_ID, RIVAL_DESCRIPTION)
    parts = (keys.rival.split("_")[1], keys.rival.split("_", 2)[2], keys.revoked.split("_", 2)[2])
    return Secrets(tuple(word.encode() for word in (*words, *parts)), (str(data_dir).encode(), b"podium_server/"))


# --- the judge ------------------------------------------------------------------------------------------------------


def judge() -> Naughty:
    """Return a chat endpoint that ranks: backwards, with some left out or twice, by what it is asked."""
    made: list[Naughty] = []

    def answer(request: Request) -> Behaviour:
        made[0].requests.clear()
        asked = json.dumps(request.body.get("messages", "")) if isinstance(request.body, dict) else ""
        numbers = sorted({int(number) for number in re.findall(r"\[(\d{1,3})\]", asked)}) or [1]
        order = numbers[::-1] if len(asked) % 3 else numbers
        if len(asked) % 7 == 0:
            order = [order[0], *order]  # what is twice is repaired, and counted
        return reply(" > ".join(f"[{number}]" for number in order))

    made.append(Naughty(choose=answer, models=("sim",)))
    return made[0]


# --- the process ----------------------------------------------------------------------------------------------------


@dataclass
class Victim:
    """A server in a process of its own.

    Args:
        process: of it.
        address: of gRPC.
        url: of REST.
        admin: address of the admin service.
        keys: to call it with.
        secrets: of the rival.
        folder: its data, its configuration, its log.

    """

    process: asyncio.subprocess.Process
    address: str
    url: str
    admin: str
    keys: Keys
    secrets: Secrets
    folder: Path
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds since the start, resident bytes, open files."""
    began: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.returncode is None

    @property
    def log(self) -> Path:
        """What it wrote to the standard error."""
        return self.folder / "server.log"

    def look(self) -> tuple[int, int]:
        """Return its resident bytes and its open files; (0, 0) where it is gone."""
        proc = Path(f"/proc/{self.process.pid}")
        try:
            resident = int((proc / "statm").read_text().split()[1]) * _PAGE_BYTES
            files = len(os.listdir(proc / "fd"))
        except OSError:
            return 0, 0
        self.samples.append((time.monotonic() - self.began, resident, files))
        return resident, files


@asynccontextmanager
async def victim(folder: Path) -> AsyncIterator[Victim]:
    """Serve within, in a child process; the judge that it asks lives in this one."""
    data_dir = _new_folder(folder)
    async with judge() as asked:
        admin_port = _free_port()
        given = settings(data_dir, asked.url, admin_port=admin_port)
        configuration = config.parse(given, where="the fuzz run")
        keys = make_keys(configuration, data_dir)
        path = folder / "podium.toml"
        path.write_text(toml(given))
        command = ["-m", "podium_server", "serve", "--config", str(path), "--port", "0", "--rest-port", "0"]
        with (folder / "server.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            async with asyncio.timeout(_START_S):
                address, url = [await _listening(process, folder / "server.log") for _ in range(2)]
            yield Victim(process, address, url, f"127.0.0.1:{admin_port}", keys, secrets_of(keys, data_dir), folder)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(40):
                    await process.wait()
            if process.returncode is None:
                process.kill()


async def _listening(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    found = _LISTENING.match(line)
    if found is None:
        raise RuntimeError(f"the server said {line!r} instead of where it listens; see {log}")
    return found[1]


def _new_folder(folder: Path) -> Path:
    made = folder / f"data-{secrets.token_hex(4)}"
    made.mkdir(parents=True)
    return made


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def toml(given: Mapping[str, Any]) -> str:
    """Return a configuration as a file has it. JSON's values are TOML's, but for objects."""
    lines = []
    for name, section in given.items():
        tables = {key: value for key, value in section.items() if isinstance(value, Mapping)}
        plain = {key: value for key, value in section.items() if key not in tables}
        lines += [f"[{name}]", *(f"{json.dumps(key)} = {_value(value)}" for key, value in plain.items())]
        lines += [f"{json.dumps(key)} = {_value(value)}" for key, value in tables.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)


# --- its log --------------------------------------------------------------------------------------------------------


def log_faults(victim: Victim, on_fault: Callable[[str], None]) -> int:
    """Tell of every line of the log that has a key or a text, or is an error of ours; return how many lines there are.

    Ids of keys may stand there, and names; their secrets and anybody's texts may not.
    """
    keys = (victim.keys.acme, victim.keys.held, victim.keys.small, victim.keys.rival, victim.keys.revoked)
    never = [key.split("_", 2)[2].encode() for key in keys] + [RIVAL_TEXT.encode(), MARK.encode()]
    lines = 0
    with victim.log.open("rb") as log:
        for line in log:
            lines += 1
            if any(word in line for word in never):
                on_fault(f"the log has a key or a text: {line[:300]!r}")
            elif b'"level": "ERROR"' in line or b"Traceback" in line:
                on_fault(f"the log has an error: {line[:600]!r}")
    return lines
