"""`podium eval simulate`: the simulated judge as an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import click

from podium_evals.cli.common import EvalCommand, qrels, read_source
from podium_server.accounting.prices import Prices


def _prices(text: str) -> Prices:
    try:
        prompt, cached, output = (float(part) for part in text.split(","))
        return Prices(prompt, cached, output, version="stated")
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: three numbers, as 0.10,0.05,0.40 ({error})") from error


@click.command("simulate", cls=EvalCommand, short_help="Serve a judge that behaves like a language model.")
@click.option(
    "--suite", "source", required=True, metavar="[NAME=]SOURCE", help="Lists, a folder, or an ir_datasets name."
)
@qrels
@click.option(
    "--noise", default="medium", metavar="LEVEL[,NAME=NUMBER…]", help="none, low, medium or high; and what differs."
)
@click.option("--seed", type=int, default=0, help="Another seed is another judge of the same kind.")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes a free one.")
@click.option(
    "--latency", default="none", metavar="MODEL", help="none, model, or prefill_tokens_per_s=15000,slots=64,…"
)
@click.option("--prices", default="0.10,0.05,0.40", metavar="PROMPT,CACHED,OUTPUT", help="USD a million, for /stats.")
def command(
    source: str, qrels: Path | None, noise: str, seed: int, host: str, port: int, latency: str, prices: str
) -> None:
    r"""Serve a judge that knows the judgments and errs as a language model does, without a model and without money.

    Its faults are fitted to recorded rankers (podium eval simulate-fit). The same prompt gets the same answer from the
    same seed, whatever else was asked.

    \b
    Example:
      podium eval simulate --suite lists.jsonl.gz --qrels qrels.txt --noise medium --port 8099
    """
    from podium_evals.simulate.endpoint import Latency
    from podium_evals.simulate.knowledge import Knowledge
    from podium_evals.simulate.noise import parse
    from podium_evals.simulate.server import Service, running

    try:
        faults, slowness = parse(noise), Latency.parse(latency)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    suite = read_source(source, qrels)
    service = Service(Knowledge(suite), faults, seed, slowness, _prices(prices))

    async def serve() -> None:
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        async with running(service, host=host, port=port) as url:
            click.echo(f"listening on {url}")
            await ended.wait()
        click.echo(json.dumps(service.stats()))

    asyncio.run(serve())
