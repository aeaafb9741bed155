"""`podium keys`: API keys, made and revoked. Running servers follow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podium_server.cli import options
from podium_server.cli.app import SETTINGS, Command

if TYPE_CHECKING:
    from podium_server.access.keys import Key, KeyFile
    from podium_server.config import Config

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.group(
    "keys",
    context_settings=SETTINGS,
    epilog=options.example(
        "podium keys create --config podium.toml --tenant acme --pipelines fast,best --expires 90d\n"
        "podium keys list --config podium.toml\n"
        "podium keys revoke --config podium.toml 5f2a90c1d3b4e6f7"
    ),
)
def command() -> None:
    """Make, list and revoke API keys.

    They are kept as hashes in the data directory (access.keys_file). A server that runs follows within a second. Give
    the commands the configuration that the server has.
    """


def _names(_: click.Context, __: click.Parameter, value: str | None) -> frozenset[str] | None:
    return None if value is None else frozenset(name.strip() for name in value.split(",") if name.strip())


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Read `90d`."""
    if value is None:
        return None
    number, unit = value[:-1], value[-1:]
    if unit not in _UNITS_S or not number.isascii() or not number.isdigit() or not int(number):
        raise click.BadParameter(f"{value!r} is no duration; a number and {', '.join(_UNITS_S)}, such as 90d")
    return float(int(number) * _UNITS_S[unit])


@command.command("create", cls=Command)
@click.option("--tenant", required=True, metavar="NAME", help="Whose it is: [tenants.NAME] of the configuration.")
@click.option("--pipelines", callback=_names, metavar="A,B", help="That it may use.  [default: all of the tenant's]")
@click.option(
    "--inline/--no-inline",
    default=None,
    help="Whether requests may bring stages of their own.  [default: where no pipelines are named]",
)
@click.option("--collections", callback=_names, metavar="C,D", help="That it may use.  [default: all of the tenant's]")
@click.option("--expires", "expires_after_s", callback=_duration, metavar="90d", help="From now.  [default: never]")
@click.option("--note", default="", metavar="TEXT", help="For people.")
@options.config
@options.data_dir
def create(
    tenant: str,
    pipelines: frozenset[str] | None,
    inline: bool | None,
    collections: frozenset[str] | None,
    expires_after_s: float | None,
    note: str,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Make a key, and print it, this once.

    The key alone goes to the standard output, so that it can be piped to where secrets are kept.
    """
    from podium_server.errors import NotFound

    config, file = _opened(config_path, data_dir)
    if tenant not in config.tenants:
        raise NotFound("tenant", tenant, tuple(config.tenants))
    for name in sorted(pipelines or ()):
        if name not in config.pipelines:
            raise NotFound("pipeline", name, tuple(config.pipelines))
    now_s = time.time()
    whole, made = file.create(
        tenant,
        pipelines=pipelines,
        inline=inline,
        collections=collections,
        note=note,
        expires_s=None if expires_after_s is None else now_s + expires_after_s,
        now_s=now_s,
    )
    until = "for ever" if made.expires_s is None else f"until {_moment(made.expires_s)}"
    click.echo(f"podium: the key {made.id} of {tenant} is valid {until}; it is not shown again:", err=True)
    if not config.access.keys:
        click.echo("podium: access.keys is not set, so that servers do not ask for it", err=True)
    click.echo(whole)


@command.command("list", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one key a line.")
@options.config
@options.data_dir
def list_(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List all keys that there ever were, without their secrets."""
    import json

    _, file = _opened(config_path, data_dir)
    found = file.list()
    if as_json:
        for key in found:
            click.echo(json.dumps(_record(key)))
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from podium_server.cli.display import console as look

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("id", "tenant", "pipelines", "collections", "made", "state", "note"):
        table.add_column(column)
    for key in found:
        record = _record(key)
        table.add_row(
            key.id,
            key.tenant,
            escape(_shown(key.pipelines)),
            escape(_shown(key.collections)),
            _moment(key.created_s),
            record["state"],
            escape(key.note),
        )
    look.stdout().print(table if found else "there are no keys")


@command.command("revoke", cls=Command)
@click.argument("key_id", metavar="ID")
@options.config
@options.data_dir
def revoke(key_id: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Revoke a key, for good. Servers refuse it within a second; calls that run go on to their end."""
    _, file = _opened(config_path, data_dir)
    # Whoever pastes the whole key means its id, and must not find it in an error message.
    from podium_server.access.keys import id_of

    revoked = file.revoke(id_of(key_id) or key_id)
    click.echo(f"podium: the key {revoked.id} of {revoked.tenant} is revoked", err=True)


def _opened(config_path: Path | None, data_dir: Path | None) -> tuple[Config, KeyFile]:
    from podium_server import config
    from podium_server.access.access import key_file

    loaded = config.load(config_path)
    return loaded, key_file(loaded, data_dir or loaded.server.data_dir)


def _record(key: Key) -> dict[str, Any]:
    state = "valid"
    if key.revoked_s is not None:
        state = f"revoked {_moment(key.revoked_s)}"
    elif key.expires_s is not None:
        word = "expired" if key.expires_s <= time.time() else "valid until"
        state = f"{word} {_moment(key.expires_s)}"
    return {
        "id": key.id,
        "tenant": key.tenant,
        "pipelines": None if key.pipelines is None else sorted(key.pipelines),
        "inline": key.inline,
        "collections": None if key.collections is None else sorted(key.collections),
        "created": _moment(key.created_s),
        "state": state,
        "note": key.note,
    }


def _shown(names: frozenset[str] | None) -> str:
    return "all" if names is None else ", ".join(sorted(names)) or "none"


def _moment(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_s))
