"""`podium doctor`: what would keep Podium from running well on this machine, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, Command

if TYPE_CHECKING:
    from podium_server.config import Config

# Modules of the extras, by the extra that brings them.
_EXTRAS = {"torch": "sentence_transformers", "vllm": "vllm"}

# What makes a 6-layer encoder several times as fast, by the name that Linux gives it.
_FAST_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "avx512_vnni", "avx_vnni", "amx_int8"})

_NAME = re.compile(r"[A-Za-z0-9._-]+")

_FREE_BYTES_MIN = 1 << 30
_LOAD_S_MAX = 3.0
_PROBE_S_MAX = 15.0


class Health(Enum):
    """How a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do if it is not well."""

    what: str
    health: Health
    told: str


@click.command(
    "doctor", cls=Command, epilog=options.example("podium doctor\npodium doctor --config podium.toml --data-dir ./data")
)
@options.config
@options.data_dir
def command(config_path: Path | None, data_dir: Path | None) -> int:
    """Look for what would keep Podium from running well here: one line each, with what to do.

    Endpoints of the configuration are asked what they can do (a call or two each); nothing else leaves this machine.
    The exit code is 1 if something fails.
    """
    from rich.markup import escape

    from podium_server.cli.display import console as look

    paper = look.stdout()
    worst = Health.OK
    marks = {Health.OK: "[green]ok  [/]", Health.WARN: "[yellow]warn[/]", Health.FAIL: "[red]fail[/]"}
    for finding in examine(config_path, data_dir):
        paper.print(f"{marks[finding.health]}  [bold]{finding.what:<14}[/] {escape(finding.told)}", soft_wrap=True)
        if finding.health is Health.FAIL:
            worst = Health.FAIL
    return FAILED if worst is Health.FAIL else DONE


def examine(config_path: Path | None, data_dir: Path | None) -> Iterator[Finding]:
    """Yield the findings as they are made."""
    yield _python()
    yield from _dependencies()
    yield _processor()
    yield _cores()
    config, finding = _configuration(config_path)
    yield finding
    yield from _shipped_model()
    if config is not None:
        yield _store(data_dir or config.server.data_dir)
        if config_path is not None:
            yield from _endpoints(config)
            yield from _cross_encoders(config)
    yield from _extras()


def _python() -> Finding:
    return Finding("python", Health.OK, f"{sys.version.split()[0]} at {sys.executable}")


def _dependencies() -> Iterator[Finding]:
    """Look for what the package asks for. That versions fit is the installer's work."""
    found, missing = [], []
    for line in requires("podium") or ():
        if "extra ==" in line:
            continue
        name = _NAME.match(line)
        if name is None:
            continue
        try:
            found.append(f"{name[0]} {version(name[0])}")
        except PackageNotFoundError:
            missing.append(name[0])
    if missing:
        told = f"{', '.join(missing)}: not installed. Install again: pip install --force-reinstall podium"
        yield Finding("dependencies", Health.FAIL, told)
    else:
        yield Finding("dependencies", Health.OK, ", ".join(found))


def _processor() -> Finding:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return Finding("processor", Health.WARN, "its features cannot be read here (no /proc/cpuinfo)")
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    features = set(facts.get("flags", facts.get("Features", "")).split())
    fast = sorted(features & _FAST_FEATURES)
    name = facts.get("model name", "a processor without a name")
    if fast:
        return Finding("processor", Health.OK, f"{name}: {', '.join(fast)}")
    missing = "no bf16 and no int8 instructions, so the embedded encoder runs at a quarter of the speed, or less"
    return Finding("processor", Health.WARN, f"{name}: {missing}")


def _cores() -> Finding:
    from podium_server.backends.processors import quota_of_time

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = f"{usable} usable of {os.cpu_count()}"
    quota = quota_of_time()
    if quota is not None and quota < usable:
        told += f", and the control group allows the time of {quota:g}"
        usable = int(quota)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > usable + 1:
        return Finding("cores", Health.WARN, f"{told}; others are at work on them (load {load:.1f})")
    if usable < 2:
        return Finding("cores", Health.WARN, f"{told}; encoding and serving share it. Two are better")
    return Finding("cores", Health.OK, told)


def _configuration(path: Path | None) -> tuple[Config | None, Finding]:
    """Read the configuration, and build its pipelines as a server would."""
    from podium_server import config
    from podium_server.compose import Models, build_pipelines
    from podium_server.errors import PodiumError

    try:
        loaded = config.load(path)
        pipelines = build_pipelines(loaded, Models(loaded))
    except PodiumError as error:
        return None, Finding("configuration", Health.FAIL, error.message)
    where = "built in" if path is None else str(path)
    names = ", ".join(sorted(pipelines))
    return loaded, Finding("configuration", Health.OK, f"{where}: pipelines {names}")


def _shipped_model() -> Iterator[Finding]:
    """Load the embedded encoder, and encode a sentence."""
    from podium_server import config
    from podium_server.compose import Models
    from podium_server.errors import PodiumError

    async def tried() -> tuple[float, float]:
        models = Models(config.load(None))
        try:
            began = time.monotonic()
            encoder = await models.encoder("minilm").encoder()
            loaded = time.monotonic()
            await asyncio.to_thread(encoder.encode_queries, ["the leaves turn light into sugar"])
            return loaded - began, time.monotonic() - loaded
        finally:
            await models.aclose()

    try:
        load_s, encode_s = asyncio.run(tried())
    except (PodiumError, OSError, ImportError) as error:
        yield Finding("encoder", Health.FAIL, f"{error}. Install again: pip install --force-reinstall podium")
        return
    told = f"all-MiniLM-L6-v2 loads in {load_s:.2f} s, and encodes a sentence in {encode_s * 1000:.1f} ms"
    yield Finding("encoder", Health.OK if load_s <= _LOAD_S_MAX else Health.WARN, told)


def _store(data_dir: Path) -> Finding:
    """See whether a store can be kept there. Makes nothing."""
    place = data_dir.absolute()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    told = str(place) if existing == place else f"{place} (will be made)"
    if not existing.is_dir():
        return Finding("store", Health.FAIL, f"{existing} is no folder; choose another --data-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("store", Health.FAIL, f"{existing} cannot be written to; choose another --data-dir")
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    told += f", {free / (1 << 30):.1f} GiB free"
    if free < _FREE_BYTES_MIN:
        return Finding("store", Health.WARN, f"{told}; 100,000 documents take about 1 GiB")
    return Finding("store", Health.OK, told)


def _endpoints(config: Config) -> Iterator[Finding]:
    """Ask each chat endpoint what it can do."""
    from podium_server.compose import Models
    from podium_server.config import OpenAIEmbeddingsModel, OpenAIModel, RerankApiModel

    for name, section in config.models.items():
        if isinstance(section, OpenAIModel):

            async def ask(name: str = name) -> str:
                models = Models(config)
                try:
                    found = await models.chat(name).capabilities()
                    return ", ".join(sorted(capability.value for capability in found))
                finally:
                    await models.aclose()

            yield _asked(name, f"{section.model} at {section.base_url}", ask)
        elif isinstance(section, OpenAIEmbeddingsModel):

            async def embed(name: str = name) -> str:
                models = Models(config)
                try:
                    encoder = await models.encoder(name).encoder()
                    return f"{encoder.dim} dimensions"
                finally:
                    await models.aclose()

            yield _asked(name, f"{section.model} at {section.base_url}", embed)
        elif isinstance(section, RerankApiModel):

            async def grade(name: str = name, section: RerankApiModel = section) -> str:
                from podium_server.backends.attempts import Bill

                models = Models(config)
                try:
                    api = models.rerank_api(name, section)
                    [score] = await api.score(api.sheet("a question", ["a text"]), slice(0, 1), Bill())
                    return f"speaks {section.dialect}, and gave a {api.scale} of {score:.3g}"
                finally:
                    await models.aclose()

            yield _asked(name, f"{section.model or 'a model'} at {section.base_url or 'its own address'}", grade)


def _cross_encoders(config: Config) -> Iterator[Finding]:
    """Load each cross-encoder, and say what it takes at a time."""
    from podium_server.compose import Models
    from podium_server.config import CrossEncoderModel
    from podium_server.errors import PodiumError

    async def tried(name: str) -> str:
        models = Models(config)
        try:
            began = time.monotonic()
            encoder = (await models.cross_encoder(name).batcher()).encoder
            took_s = time.monotonic() - began
        finally:
            await models.aclose()
        capacity = encoder.capacity
        return (
            f"loads in {took_s:.2f} s, scores about {capacity.tokens_per_s:,.0f} tokens/s in batches of up to "
            f"{capacity.padded_tokens:,} tokens, {capacity.lanes} side by side, and gives a {encoder.scale}"
        )

    for name, section in config.models.items():
        if isinstance(section, CrossEncoderModel):
            try:
                yield Finding(f"model {name}", Health.OK, f"{section.model}: {asyncio.run(tried(name))}")
            except (PodiumError, OSError, ImportError) as error:
                yield Finding(f"model {name}", Health.FAIL, f"{section.model}: {error}")


def _asked(name: str, place: str, ask: Callable[[], Awaitable[str]]) -> Finding:
    from podium_server.errors import PodiumError

    async def bounded() -> str:
        async with asyncio.timeout(_PROBE_S_MAX):
            return await ask()

    try:
        return Finding(f"model {name}", Health.OK, f"{place}: {asyncio.run(bounded())}")
    except TimeoutError:
        return Finding(f"model {name}", Health.FAIL, f"{place} did not answer within {_PROBE_S_MAX:.0f} s")
    except (PodiumError, OSError) as error:
        return Finding(f"model {name}", Health.FAIL, f"{place}: {error}")


def _extras() -> Iterator[Finding]:
    for extra, module in _EXTRAS.items():
        if find_spec(module) is None:
            yield Finding(f"extra {extra}", Health.OK, f"not installed; pip install 'podium[{extra}]' brings it")
        else:
            yield Finding(f"extra {extra}", Health.OK, f"{module} {version(module.replace('_', '-'))}")
