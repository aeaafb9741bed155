"""A server that says all it can, with secrets wherever one can be: `python -m tests.access.leaky CONFIG`."""

from __future__ import annotations

import logging
import sys

from podium_server.cli.app import run
from podium_server.transport import logs


def main() -> None:
    """Serve at DEBUG, whatever the configuration says of it."""
    usual = logs.configure

    def loud(*_: object, **__: object) -> None:
        usual("DEBUG")
        logging.getLogger().setLevel(logging.DEBUG)

    logs.configure = loud  # type: ignore[assignment]
    loud()
    sys.exit(run(["serve", "--config", sys.argv[1], "--port", "0", "--verbose"]))


if __name__ == "__main__":
    main()
