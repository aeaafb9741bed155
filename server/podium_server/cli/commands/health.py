"""`podium health`: what a container's health check asks, and a drain hook."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podium_server.cli import options
from podium_server.cli.app import DONE, FAILED, Command, say

if TYPE_CHECKING:
    import grpc

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    "health",
    cls=Command,
    epilog=options.example("podium health\npodium health 127.0.0.1:50051 --service podium.v1.RerankService"),
)
@click.argument("target", default="127.0.0.1:50051", metavar="[HOST:PORT]")
@click.option("--service", default="", metavar="NAME", help="Of one service; empty asks for all together.")
@click.option("--timeout-s", type=click.FloatRange(min=0.01), default=2.0, metavar="S", help="To wait for an answer.")
@click.option("--ca", type=_FILE, metavar="FILE", help="Over TLS: whom to trust.")
@click.option("--certificate", type=_FILE, metavar="FILE", help="Over mutual TLS: the certificate to show.")
@click.option("--key", type=_FILE, metavar="FILE", help="Over mutual TLS: its key.")
@click.option("--server-name", metavar="NAME", help="Over TLS: the name in the server's certificate.")
def command(
    target: str,
    service: str,
    timeout_s: float,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str | None,
) -> None:
    """Ask a server whether it serves (grpc.health.v1), and say so by the exit code.

    0 serving, 1 not serving or not reachable. Prints the status.
    """
    if ca is None and (certificate is not None or key is not None):
        raise click.UsageError("--certificate and --key are for TLS, which --ca asks for")
    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key belong together")
    import grpc

    if ca is None:
        channel = grpc.insecure_channel(target)
    else:
        shown = (None if key is None else key.read_bytes(), None if certificate is None else certificate.read_bytes())
        override = [("grpc.ssl_target_name_override", server_name)] if server_name else []
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes(), *shown), options=override)
    sys.exit(_ask(channel, target, service, timeout_s))


def _ask(channel: grpc.Channel, target: str, service: str, timeout_s: float) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub: Any = health_pb2_grpc.HealthStub(channel)
    with channel:
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            say(f"{target}: {error.code().name}: {error.details()}")
            return FAILED
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(status)
    return DONE if answer.status == health_pb2.HealthCheckResponse.SERVING else FAILED
