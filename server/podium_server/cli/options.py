"""Options that several commands have in common, and the configuration that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Configuration (TOML), laid over the built-in one.",
)
target = click.option("--target", metavar="HOST:PORT", help="Ask this server instead of starting one here.")
data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the store is.  [default: what the configuration says, else .podium]",
)
pipeline = click.option("--pipeline", metavar="NAME", help="Pipeline.  [default: the server's default]")


def example(text: str) -> str:
    """Return an example for the end of a command's help, as it is written."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.strip().splitlines())
