"""The file of a recipe: one TOML, read once, refused with the offending key and the known ones."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from podium_server.config.section import section_in
from podium_server.errors import ConfigInvalid
from podium_server.training.recipe import Fusing, Recipe

DATA_VARIABLE = "PODIUM_DATA"
"""The environment variable that names the folder of the data."""


def load(path: Path, *, steps: int | None = None) -> Recipe | Fusing:
    """Read a recipe.

    Args:
        path: of the TOML file.
        steps: in place of the recipe's own, to try it.

    Raises:
        ConfigInvalid: with the file, the key, and what could stand there instead.

    """
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigInvalid(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: is no valid TOML: {error}") from error
    if steps is not None:
        given = {**given, "training": {**given.get("training", {}), "steps": steps}}
    return parse(given, where=str(path))


def parse(given: Mapping[str, Any], *, where: str) -> Recipe | Fusing:
    """Validate a recipe that was read from `where`; one with a `[[signal]]` is a fusion's.

    Raises:
        ConfigInvalid: one line a mistake.

    """
    kind: type[Recipe] | type[Fusing] = Fusing if "signal" in given else Recipe
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ConfigInvalid("\n".join(f"{where}: {line}" for line in _mistakes(error, kind))) from error


def data_folders(recipe: Path, given: Path | None) -> tuple[Path, ...]:
    """Return where relative paths of a recipe are looked for, in this order."""
    named = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    return tuple(folder for folder in (recipe.resolve().parent, named) if folder is not None)


def found(pattern: str, folders: tuple[Path, ...]) -> list[Path]:
    """Return the files that a path of a recipe means.

    Raises:
        ConfigInvalid: there are none.

    """
    if Path(pattern).is_absolute():
        folders = (Path("/"),)
        pattern = pattern.lstrip("/")
    for folder in folders:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    looked = " nor ".join(map(str, folders))
    raise ConfigInvalid(f"there is no file {pattern!r} in {looked}; --data or ${DATA_VARIABLE} names the data's folder")


def _mistakes(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    lines = []
    for mistake in error.errors(include_url=False):
        key = ".".join(map(str, mistake["loc"]))
        match mistake["type"]:
            case "extra_forbidden":
                known = _known_keys(mistake["loc"][:-1], kind)
                near = get_close_matches(str(mistake["loc"][-1]), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                lines.append(f"{key}: no such key{hint} (known: {', '.join(known)})")
            case "missing":
                lines.append(f"{key}: is needed and missing")
            case _:
                said = mistake["msg"].removeprefix("Value error, ")
                shown = repr(mistake["input"])
                simple = not isinstance(mistake["input"], dict) and len(shown) <= 80
                lines.append(f"{key}: {said}; it is {shown}" if key and simple else f"{key}: {said}" if key else said)
    return lines


def _known_keys(location: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = section_in(section.model_fields[part].annotation)
    return list(section.model_fields)
