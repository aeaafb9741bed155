"""`podium estimate`: a quote, from the plan itself. Opens no model and no connection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from podium_server.cli import options
from podium_server.cli.app import Command

if TYPE_CHECKING:
    from podium_server.ranking.pipeline import Estimate

# About as long as the queries of web search and of TREC, in words.
_SKETCHED_QUERY = "a question of about as many words as people ask"


@click.command(
    "estimate",
    cls=Command,
    epilog=options.example(
        """
podium estimate --pipeline fast --candidates 100
podium estimate --config podium.toml --pipeline best --candidates 100 --queries 1000000 --json"""
    ),
)
@options.pipeline
@options.config
@click.option("--candidates", type=click.IntRange(min=0), default=100, metavar="N", help="Candidates of a list.")
@click.option("--tokens-per-document", type=click.IntRange(min=1), default=128, metavar="N", help="Length of texts.")
@click.option("--queries", type=click.IntRange(min=0), metavar="N", help="Quote the whole job, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    pipeline: str | None,
    config_path: Path | None,
    candidates: int,
    tokens_per_document: int,
    queries: int | None,
    as_json: bool,
) -> None:
    """Quote what ranking a list would take: questions, rounds, calls, tokens and money. Calls no model.

    A strategy that adapts to its answers is quoted by its mean under truthful judges, with the most it can ask beside
    it. A price that nobody configured leaves the cost out.
    """
    from podium_server import config
    from podium_server.compose import Models, build_pipelines
    from podium_server.errors import InvalidRequest, NotFound
    from podium_server.ranking.pipeline import estimate, sketched_case
    from podium_strategies.plan import PlanTooLarge

    loaded = config.load(config_path)
    name = pipeline or loaded.server.default_pipeline
    built = build_pipelines(loaded, Models(loaded))
    if name not in built:
        raise NotFound("pipeline", name, tuple(built))
    try:
        quote = estimate(built[name], sketched_case(_SKETCHED_QUERY, candidates, tokens_per_document))
    except PlanTooLarge as error:
        raise InvalidRequest("candidates", f"too many for this pipeline: {error}") from error
    data = as_data(quote, queries)
    data |= {"pipeline": name, "candidates": candidates, "tokens_per_document": tokens_per_document}
    if as_json:
        click.echo(json.dumps(data, ensure_ascii=False))
    else:
        _print(name, data, quote, queries)


def as_data(quote: Estimate, queries: int | None) -> dict[str, Any]:
    """Return a quote for a program. What is unknown is left out, never 0."""
    forecast, usage = quote.forecast, quote.usage
    # Seeded judges may agree by chance; what cannot vary has no larger bound.
    exact = forecast.exact and forecast.questions_max in (None, forecast.questions)
    data: dict[str, Any] = {
        "questions": _number(forecast.questions),
        "rounds": _number(forecast.rounds),
        "calls": usage.calls,
        "pairs": usage.pairs,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
        "exact": exact,
    }
    _put(data, "cost_usd", _usd(usage.cost_nano_usd))
    _put(data, "questions_max", forecast.questions_max)
    most = quote.usage_max
    if most is not None and not exact:
        data |= {
            "calls_max": most.calls,
            "prompt_tokens_max": most.prompt_tokens,
            "output_tokens_max": most.output_tokens,
        }
        _put(data, "cost_usd_max", _usd(most.cost_nano_usd))
    data["stages"] = [
        {
            "stage": voice.account.stage,
            "strategy": voice.account.strategy,
            "model": voice.account.model,
            "candidates_in": voice.account.candidates_in,
            "candidates_out": voice.account.candidates_out,
            "questions": _number(voice.questions),
            "calls": voice.usage.calls,
            "prompt_tokens": voice.usage.prompt_tokens,
            "output_tokens": voice.usage.output_tokens,
        }
        | ({} if voice.usage.cost_nano_usd is None else {"cost_usd": _usd(voice.usage.cost_nano_usd)})
        for voice in quote.voices
    ]
    if queries is not None:
        names = ("questions", "calls", "prompt_tokens", "output_tokens", "cost_usd")
        data["queries"] = queries
        data["all_queries"] = {name: data[name] * queries for name in names if name in data}
    return data


def _print(name: str, data: dict[str, Any], quote: Estimate, queries: int | None) -> None:
    from rich import box
    from rich.table import Table

    from podium_server.cli.display import console as look

    paper = look.stdout()
    tokens = data["tokens_per_document"]
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column("stage", no_wrap=True)
    # The one column that gives way on narrow paper; --json has the names whole.
    table.add_column("model", style="dim", overflow="ellipsis")
    for title in ("from → to", "asked", "calls", "tok in", "tok out", "cost"):
        table.add_column(title, justify="right", no_wrap=True)
    for voice in quote.voices:
        account, usage = voice.account, voice.usage
        flow = f"{account.candidates_in:,}"
        if account.candidates_out != account.candidates_in:
            flow += f" → {account.candidates_out:,}"
        amounts = (look.short(usage.calls), look.short(usage.prompt_tokens), look.short(usage.output_tokens))
        cost = look.money(usage.cost_nano_usd)
        table.add_row(look.stage(account), account.model or "–", flow, _short(voice.questions), *amounts, cost)

    def whole(title: str, times: int) -> None:
        usage = quote.usage
        cost = None if usage.cost_nano_usd is None else usage.cost_nano_usd * times
        amounts = (usage.calls, usage.prompt_tokens, usage.output_tokens)
        shown = (look.short(amount * times) for amount in amounts)
        asked = _short(quote.forecast.questions * times)
        table.add_row(title, "", "", asked, *shown, look.money(cost), style="bold")

    table.add_section()
    whole("a list", 1)
    if queries is not None:
        whole(look.plural(queries, "list"), queries)
    documents = look.plural(data["candidates"], "candidate")
    paper.print(f"[bold]{name}[/]: {documents} of about {tokens} tokens each, {data['rounds']} rounds deep")
    paper.print(table)
    if not data["exact"]:
        most = quote.forecast.questions_max
        bound = "no bound is known" if most is None else f"at most {most:,}"
        paper.print(f"It adapts to the answers: {look.count(quote.forecast.questions)} questions on average, {bound}.")
    if quote.usage.cost_nano_usd is None:
        paper.print("The cost is unknown: configure models.<name>.prices.")


def _short(questions: float) -> str:
    """Return a number of questions, which may be a mean, in a few characters."""
    from podium_server.cli.display import console as look

    return look.count(round(questions, 1)) if questions < 1000 else look.short(round(questions))


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else round(value, 2)


def _usd(cost_nano_usd: int | None) -> float | None:
    return None if cost_nano_usd is None else cost_nano_usd / 1e9


def _put(data: dict[str, Any], key: str, value: object | None) -> None:
    if value is not None:
        data[key] = value
