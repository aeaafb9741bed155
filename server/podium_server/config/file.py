"""The configuration file: one TOML, read once, refused at start with the offending key and the known ones.

What a file does not say stands in `builtin.toml`, which is laid under it: its pipelines and models are always there,
unless the file has one of the same name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from podium_server.access.sections import AccessSection, Tenants, TlsSection
from podium_server.config.models import BACKENDS, Model
from podium_server.config.pipelines import ChallengerSection, PipelineSection, StageSection
from podium_server.config.section import Section, section_in
from podium_server.config.server import (
    AdminSection,
    CollectionSection,
    RankingLogSection,
    RestSection,
    ServerSection,
    TelemetrySection,
)
from podium_server.errors import ConfigInvalid, known_names
from podium_server.limits import Limits


class Config(Section):
    """The whole file."""

    server: ServerSection = ServerSection()
    limits: Limits = Limits()
    telemetry: TelemetrySection = TelemetrySection()
    admin: AdminSection = AdminSection()
    rest: RestSection = RestSection()
    models: dict[str, Model] = Field(default_factory=dict)
    collections: dict[str, CollectionSection] = Field(default_factory=dict)
    tls: TlsSection = TlsSection()
    access: AccessSection = AccessSection()
    tenants: Tenants = Field(default_factory=dict)
    pipelines: dict[str, PipelineSection] = Field(default_factory=dict)
    ranking_log: RankingLogSection = RankingLogSection()


def load(path: Path | None) -> Config:
    """Read a configuration file over the built-in one.

    Args:
        path: of the TOML file; None takes the built-in configuration alone.

    Raises:
        ConfigInvalid: with the file, the key, and what could stand there instead.

    """
    builtin = tomllib.loads((files("podium_server") / "builtin.toml").read_text("utf-8"))
    if path is None:
        return parse(_layered(builtin, {}), where="builtin.toml")
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigInvalid(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: is no valid TOML: {error}") from error
    return parse(_layered(builtin, given), where=str(path))


def _layered(builtin: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` over `builtin`, of which pipelines whose models nobody has configured are left out."""
    if not all(isinstance(given.get(table, {}), dict) for table in ("models", "pipelines")):
        return dict(given)  # and validation says what is wrong with it
    models = {**builtin["models"], **given.get("models", {})}
    usable = {
        name: section for name, section in builtin["pipelines"].items() if _models_of(section["stages"]) <= set(models)
    }
    return {**given, "models": models, "pipelines": {**usable, **given.get("pipelines", {})}}


def _models_of(stages: Iterable[Mapping[str, Any]]) -> set[str]:
    named: set[str] = set()
    for stage in stages:
        named |= {stage["model"]} if "model" in stage else set()
        named |= _models_of(stage.get("of", ()))
    return named


def parse(given: Mapping[str, Any], *, where: str) -> Config:
    """Validate a configuration that was read from `where`.

    Raises:
        ConfigInvalid: one line a mistake.

    """
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise ConfigInvalid("\n".join(f"{where}: {line}" for line in _mistakes(error))) from error
    if config.server.default_pipeline not in config.pipelines:
        name = config.server.default_pipeline
        listed = known_names(name, tuple(config.pipelines))
        raise ConfigInvalid(f"{where}: server.default_pipeline: no pipeline is named {name!r}{listed}")
    for name, section in config.pipelines.items():
        _check_challenger(config, name, section.challenger, where)
    _check_rest_models(config, where)
    return config


def _check_rest_models(config: Config, where: str) -> None:
    """Refuse names for clients that stand for nothing, or hide a pipeline."""
    for name, pipeline in config.rest.models.items():
        if pipeline not in config.pipelines:
            listed = known_names(pipeline, tuple(config.pipelines))
            raise ConfigInvalid(f"{where}: rest.models.{name}: no pipeline is named {pipeline!r}{listed}")
        if name in config.pipelines and name != pipeline:
            raise ConfigInvalid(f"{where}: rest.models.{name}: is a pipeline too, which nobody could ask for then")


def _check_challenger(config: Config, name: str, given: ChallengerSection | None, where: str) -> None:
    if given is None:
        return
    key = f"{where}: pipelines.{name}.challenger"
    if given.pipeline not in config.pipelines:
        listed = known_names(given.pipeline, tuple(config.pipelines))
        raise ConfigInvalid(f"{key}.pipeline: no pipeline is named {given.pipeline!r}{listed}")
    if config.ranking_log.path is None:
        raise ConfigInvalid(f"{key}: ranking_log.path is not set, and without a log nobody can tell who was better")


def parse_stage(given: Mapping[str, Any], *, where: str) -> StageSection:
    """Validate a stage that came with a request.

    Raises:
        ConfigInvalid: one line a mistake, each with `where`.

    """
    try:
        return TypeAdapter(StageSection).validate_python(dict(given))
    except ValidationError as error:
        raise ConfigInvalid("\n".join(f"{where}: {line}" for line in _mistakes(error))) from error


def _mistakes(error: ValidationError) -> list[str]:
    """Return a sentence for each mistake: the key, what is wrong, and what could stand there."""
    lines = []
    for mistake in error.errors(include_url=False):
        # The tag of a discriminated union is no key of the file.
        path = [str(part) for i, part in enumerate(mistake["loc"]) if not (i == 2 and part in BACKENDS)]
        key = ".".join(path)
        match mistake["type"]:
            case "extra_forbidden":
                known = _known_keys(mistake["loc"][:-1])
                near = get_close_matches(path[-1], known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                lines.append(f"{key}: no such key{hint} (known: {', '.join(known)})")
            case "missing":
                lines.append(f"{key}: is needed and missing")
            case "union_tag_invalid" | "union_tag_not_found":
                given = mistake["input"].get("backend") if isinstance(mistake["input"], dict) else None
                lines.append(f"{key}.backend: is {given!r}, and must be one of {', '.join(BACKENDS)}")
            case _:
                shown = repr(mistake["input"])
                shown = shown if len(shown) <= 80 else shown[:77] + "…"
                lines.append(f"{key}: {mistake['msg'].removeprefix('Value error, ')}; it is {shown}")
    return lines


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a table at `location` may have."""
    section: type[BaseModel] = Config
    for i, part in enumerate(location):
        if location[0] == "models" and i == 2:
            section = BACKENDS[str(part)]
        elif isinstance(part, str) and part in section.model_fields:
            section = section_in(section.model_fields[part].annotation)
    return list(section.model_fields)
