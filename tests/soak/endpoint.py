"""A chat endpoint that ranks, and misbehaves when it is told to: `python -m tests.soak.endpoint PORT`.

It takes the name of a mode as a line of its standard input: normal, hung, garbage, refusing.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys

from tests.backends import naughty
from tests.backends.naughty import Behaviour, Naughty, Request

LATENCY_S = 0.04
_LABEL = re.compile(r"\[(\d+)\]")

GARBAGE: tuple[Behaviour, ...] = (
    naughty.html(),
    naughty.html(502),
    naughty.truncated_json(),
    naughty.empty_choices(),
    naughty.reply("I am sorry, I cannot rank these."),
    naughty.reply("[99] > [99] > [0]"),
    naughty.reply(None),
    naughty.reset_in_mid_body,
    naughty.close_without_a_word,
    naughty.no_http,
)
REFUSING: tuple[Behaviour, ...] = (
    naughty.status(429, {"retry-after": "1"}),
    naughty.status(429),
    naughty.status(500),
    naughty.status(503, {"retry-after": "1"}),
    naughty.status(529),
)
HUNG: tuple[Behaviour, ...] = (naughty.hang, naughty.hang, naughty.half_then_hang)


class Endpoint:
    """Chooses a behaviour for each request."""

    def __init__(self, seed: int) -> None:
        self.mode = "normal"
        self._random = random.Random(seed)
        self.naughty = Naughty(choose=self.choose, latency_s=LATENCY_S)

    def choose(self, request: Request) -> Behaviour:
        self.naughty.requests.clear()  # which are kept for tests, and this runs for long
        kinds = {"garbage": GARBAGE, "refusing": REFUSING, "hung": HUNG}.get(self.mode)
        return self._rank(request) if kinds is None else self._random.choice(kinds)

    def _rank(self, request: Request) -> Behaviour:
        said = json.dumps(request.body.get("messages", []))
        labels = sorted({int(each) for each in _LABEL.findall(said)})
        self._random.shuffle(labels)
        usage = {"prompt_tokens": len(said) // 4, "completion_tokens": 4 * len(labels), "total_tokens": 0}
        return naughty.reply(" > ".join(f"[{each}]" for each in labels) or "[1]", usage=usage)


async def main(port: int) -> None:
    endpoint = Endpoint(port)
    await endpoint.naughty.start(port)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        endpoint.mode = line.strip()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
