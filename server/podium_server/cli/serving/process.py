"""One process that serves: all of `podium serve`, or one of its workers."""

from __future__ import annotations

from collections.abc import Callable

from podium_server.compose import Podium
from podium_server.config import Config
from podium_server.errors import ConfigInvalid
from podium_server.transport import logs
from podium_server.transport.admin_service import administered
from podium_server.transport.server import Beside, serve


async def served(config: Config, tell: Callable[[str], None], *, shared: bool = False) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: of the server.
        tell: is told each address, once calls are answered there.
        shared: whether other processes serve the same port; then there are no collections.

    Raises:
        ConfigInvalid: what is configured cannot be served here.

    """
    logs.configure(config.telemetry.log_level, form=config.telemetry.logs)
    podium = Podium(config, data_dir=config.server.data_dir, collections=not shared, serving=True)
    try:
        await podium.start()
        server = config.server
        guards, others = podium.call_guards, beside(config)
        async with administered(podium.administration, config.admin.host, config.admin.port):
            await serve(podium.served, server.host, server.port, tell, shared=shared, guards=guards, beside=others)
    finally:
        await podium.aclose()


def beside(config: Config) -> list[Beside]:
    """Return what listens beside gRPC.

    Raises:
        ConfigInvalid: REST is configured, and not installed.

    """
    if config.rest.port is None:
        return []
    try:
        from podium_server.rest.server import RestServer
    except ModuleNotFoundError as error:
        raise ConfigInvalid(
            f"rest.port is {config.rest.port}, and {error.name} is not installed: pip install 'podium[rest]'"
        ) from error
    return [RestServer(config.rest)]
