"""How the command line reaches a server: by TLS, with a key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    import grpc

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

KEY_VARIABLE = "PODIUM_API_KEY"
_META = "podium.connecting"


class Arguments(TypedDict):
    """Of a client of `podium_client`."""

    credentials: grpc.ChannelCredentials | None
    token: str | None


def _keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    ctx.meta.setdefault(_META, {})[parameter.name] = value


def _file(flag: str, text: str) -> Callable[[FunctionT], FunctionT]:
    return click.option(
        flag,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=text,
        expose_value=False,
        callback=_keep,
    )


_OPTIONS = (
    _file("--tls-ca", "Of --target: use TLS, and trust the certificates in this file (PEM)."),
    _file("--tls-cert", "Of --target: our own certificate, for mutual TLS (PEM)."),
    _file("--tls-key", "Of --target: the key of --tls-cert (PEM)."),
    click.option(
        "--tls",
        is_flag=True,
        help="Of --target: use TLS, and trust what this machine trusts.",
        expose_value=False,
        callback=_keep,
    ),
    _file("--api-key-file", f"A file with the API key.  [default: ${KEY_VARIABLE}]"),
    click.option(
        "--plaintext-key",
        is_flag=True,
        help="Send the key to another machine without TLS, where anyone between can read it.",
        expose_value=False,
        callback=_keep,
    ),
)


def options(function: FunctionT) -> FunctionT:
    """Add the options that say how a server is reached. They reach `arguments` by the context, not the function."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def arguments(target: str) -> Arguments:
    """Return how the client of the running command reaches a target.

    Raises:
        click.UsageError: the options contradict each other, or the key would travel unencrypted.
        ConfigInvalid: a file cannot be read.

    """
    from podium_client import tls_credentials
    from podium_server.access.secrets import read_text

    context = click.get_current_context(silent=True)
    given: dict[str, Any] = {} if context is None else context.meta.get(_META, {})
    ca, certificate, key = (_read(given.get(name)) for name in ("tls_ca", "tls_cert", "tls_key"))
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together.")
    encrypted = bool(given.get("tls")) or ca is not None or certificate is not None
    file: Path | None = given.get("api_key_file")
    env = KEY_VARIABLE if file is None and os.environ.get(KEY_VARIABLE) else None
    token = read_text(env=env, file=file, what="the API key")
    if token is not None and not encrypted and not given.get("plaintext_key") and not _here(target):
        raise click.UsageError(
            f"the API key would travel to {target} unencrypted; use --tls-ca or --tls, or say --plaintext-key."
        )
    return {"credentials": tls_credentials(ca, certificate, key) if encrypted else None, "token": token}


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _here(target: str) -> bool:
    from podium_server.access.listening import loopback_only

    host, _, _ = target.rpartition("/")[2].rpartition(":")
    return loopback_only(host.strip("[]"))
