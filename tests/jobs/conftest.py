"""Jobs as people run them: the command line's own fixtures."""

from tests.cli.conftest import endpoint, podium

__all__ = ["endpoint", "podium"]
