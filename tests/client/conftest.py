from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podium_client import AsyncClient, Client
from tests.client.toy_podium import Toy, serving


class Awaiting:
    """The asynchronous client behind the face of the synchronous one, so that one test says what both must do."""

    def __init__(self, target: str, **arguments: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._made(target, arguments))

    async def _made(self, target: str, arguments: dict[str, Any]) -> AsyncClient:
        return AsyncClient(target, **arguments)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made = method(*arguments, **options)
            return self._runner.run(made) if inspect.iscoroutine(made) else self._each(made)

        return call

    def _each(self, items: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._runner.run(anext(items))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(items.aclose())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def target(toy: Toy) -> Iterator[str]:
    with serving(toy) as address:
        yield address


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest, target: str) -> Iterator[Callable[..., Any]]:
    """Return what makes a client of either kind."""
    made: list[Any] = []

    def make(**arguments: Any) -> Any:
        made.append((Client if request.param == "sync" else Awaiting)(target, **arguments))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def podium(connect: Callable[..., Any]) -> Any:
    return connect()
