"""Runs in the environment that has schemathesis, and in no other: cases of the page, one JSON line for each answer.

`python schemathesis_driver.py URL KEY COUNT SEED`. Nothing of ours can be imported here.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis.generation import GenerationMode


def main() -> None:
    """Draw cases of every operation, valid ones and others, send them, and tell what came."""
    url, key, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    each = max(2, -(-count // (2 * len(operations))))
    told = 0
    for place, operation in enumerate(operations):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                told += _some(strategy, operation, mode.name, url, key, each, seed + place)
            except Exception as error:  # noqa: BLE001  # an operation without anything to make wrong has no such cases
                _say({"none": f"{operation.method} {operation.path} {mode.name}", "why": f"{error!r:.200}"})
    _say({"told": told})


def _some(strategy: Any, operation: Any, mode: str, url: str, key: str, count: int, seed: int) -> int:
    told = 0

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        nonlocal told
        case.headers = {
            **{name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"},
            "Authorization": f"Bearer {key}",
        }
        try:
            response = case.call(base_url=url, timeout=25)
        except Exception as error:  # noqa: BLE001  # whether it is a fault of the server is for the parent to say
            _say(
                {
                    "verb": operation.method,
                    "path": operation.path,
                    "mode": mode,
                    "error": f"{type(error).__name__}: {error!s:.300}",
                }
            )
            return
        told += 1
        body = response.request.body if hasattr(response, "request") and response.request is not None else b""
        sent = body if isinstance(body, bytes) else str(body or "").encode("utf-8", "replace")
        sent += str(getattr(getattr(response, "request", None), "url", "")).encode("utf-8", "replace")
        _say(
            {
                "verb": operation.method.upper(),
                "path": operation.path,
                "mode": mode,
                "status": response.status_code,
                "headers": {
                    name: value[0] if isinstance(value, list) else value for name, value in response.headers.items()
                },
                "body": base64.b64encode(response.content or b"").decode(),
                "sent": base64.b64encode(sent).decode(),
            }
        )

    run()
    return told


def _say(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


if __name__ == "__main__":
    main()
