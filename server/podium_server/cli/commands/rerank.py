"""`podium rerank`: many lists, in this process, on servers or on a Ray cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from podium_server.cli import options
from podium_server.cli.app import Command
from podium_server.cli.reaching import connecting


@click.command(
    "rerank",
    cls=Command,
    epilog=options.example(
        """
podium rerank --pipeline fast lists.jsonl.gz --out ranked.jsonl --run ranked.trec
podium rerank --config podium.toml --pipeline best lists.parquet --out ranked.parquet --job-max-cost-usd 20
podium rerank --target rank-1:50051,rank-2:50051 --pipeline best lists.jsonl --out ranked.jsonl
podium rerank --pipeline recall - --out - < lists.jsonl"""
    ),
)
@click.argument("source", metavar="IN")
@click.option("--out", metavar="OUT", required=True, help="Where the orders go; `-` is standard output.")
@click.option("--run", "run_path", metavar="OUT.trec", help="Write a TREC run, too.")
@click.option(
    "--ledger",
    "ledger_path",
    metavar="FILE",
    help="What each list used and was warned of.  [default: OUT.ledger.jsonl; none for `-`]",
)
@click.option("--no-ledger", is_flag=True, help="Write no ledger of each list; the summary has the sums.")
@options.pipeline
@options.config
@click.option(
    "--target",
    "targets",
    metavar="HOST:PORT[,…]",
    multiple=True,
    help="Ask these servers: each list goes to the least busy; the lists of one that dies go to the others.",
)
@connecting.options
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Where the lists are ranked: this process, or the workers of a Ray cluster (extra `ray`).",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Of the cluster.  [default: $RAY_ADDRESS, else one on this machine]",
)
@click.option(
    "--ray-workers", type=click.IntRange(1), metavar="N", help="Workers on it.  [default: one for each machine]"
)
@click.option("--ray-worker-gpus", type=click.FloatRange(min=0), default=0.0, metavar="N", help="GPUs of each worker.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Remember chat models' verdicts in the store there, for other jobs too.  "
    "[default: OUT.verdicts, removed when the job is whole]",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Rank the first N lists only.")
@click.option(
    "--concurrency", type=click.IntRange(1, 4096), default=64, metavar="N", help="Lists at work side by side."
)
@click.option("--max-cost-usd", type=click.FloatRange(min=0), metavar="USD", help="Of one list: money.")
@click.option("--max-calls", type=click.IntRange(min=0), metavar="N", help="Of one list: calls to models.")
@click.option("--max-tokens", type=click.IntRange(min=0), metavar="N", help="Of one list: input and output tokens.")
@click.option("--job-max-cost-usd", type=click.FloatRange(min=0), metavar="USD", help="Of the whole job: money.")
@click.option("--job-max-calls", type=click.IntRange(min=0), metavar="N", help="Of the whole job: calls to models.")
@click.option("--job-max-tokens", type=click.IntRange(min=0), metavar="N", help="Of the whole job: tokens.")
@click.option("--job-max-hours", type=click.FloatRange(min=0), metavar="H", help="Of the whole job: hours at work.")
@click.option("--strict", is_flag=True, help="Stop at the first list that fails, or line that is no list.")
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=20,
    metavar="N",
    help="Stop when N lists in a row found nobody to answer, and ask them again in the next run; 0 goes on.",
)
@click.option("--restart", is_flag=True, help="Begin anew, and throw away what an interrupted run has left.")
def command(
    source: str,
    out: str,
    run_path: str | None,
    ledger_path: str | None,
    no_ledger: bool,
    pipeline: str | None,
    config_path: Path | None,
    targets: tuple[str, ...],
    engine: str,
    ray_address: str | None,
    ray_workers: int | None,
    ray_worker_gpus: float,
    data_dir: Path | None,
    limit: int | None,
    concurrency: int,
    max_cost_usd: float | None,
    max_calls: int | None,
    max_tokens: int | None,
    job_max_cost_usd: float | None,
    job_max_calls: int | None,
    job_max_tokens: int | None,
    job_max_hours: float | None,
    strict: bool,
    patience: int,
    restart: bool,
) -> int:
    r"""Put many lists of candidates in order.

    IN has one list a line: {"qid", "query", "candidates": [{"docid", "text", "score"?}]}, plain or gzipped, or is a
    Parquet file with these columns (extra `parquet`); `-` is standard input. OUT gets one line a list, in the order of
    the input: {"qid", "ranking": [docid, …], "scores"?, "completion"}; .gz compresses, .parquet makes a table. A list
    that could not be ranked gets {"qid", "error": {"reason", "message"}} instead, and none in the TREC run. A line that
    is no list is reported with its number. Either makes the exit code 1. Where nobody answers any more (a dead
    endpoint, a revoked key), the job stops instead of writing errors (--patience).

    The files are written as OUT.part and take their names when they are whole. Whatever ends the job before (Ctrl-C, a
    crash, kill -9), the same command goes on with what is done and ends with the same bytes; chat models' verdicts of
    unfinished lists are not paid again. OUT.summary.json tells what was done and what it cost, over all runs.

    \b
    Exit codes: 0 all ranked; 1 something failed; 2 misused; 3 the job's budget is spent (the same command with a
    larger one goes on); 130 interrupted (the same command goes on).
    """
    from podium_server.cli.job_runs.job_run import Files
    from podium_server.cli.job_runs.rerank import RayCluster, RerankJob
    from podium_server.jobs.budget import JobBudget
    from podium_server.ranking.request import Budget

    for option, path in (("--run", run_path), ("--ledger", ledger_path)):
        if path is not None and path.endswith(".parquet"):
            raise click.UsageError(f"{option} is {path}, and its lines make no table; only --out may be Parquet.")
    if ledger_path is not None and no_ledger:
        raise click.UsageError("--ledger and --no-ledger contradict each other.")
    files = Files(source, out, run_path, None if no_ledger else ledger_path, with_ledger=not no_ledger)
    if files.repeated:
        raise click.UsageError(f"{files.repeated} is named twice; each file needs its own name.")
    servers = tuple(target for given in targets for target in given.split(",") if target)
    if servers and (config_path is not None or data_dir is not None):
        raise click.UsageError("--config and --data-dir are of this process, --target is a server elsewhere: give one.")
    if servers and engine == "ray":
        raise click.UsageError("--target sends lists to servers, --engine ray to a cluster: give one.")
    if (ray_address is not None or ray_workers is not None or ray_worker_gpus) and engine != "ray":
        raise click.UsageError("--ray-address, --ray-workers and --ray-worker-gpus need --engine ray.")
    job = RerankJob(
        files=files,
        pipeline=pipeline,
        config_path=config_path,
        servers=servers,
        ray=RayCluster(ray_address, ray_workers, ray_worker_gpus) if engine == "ray" else None,
        data_dir=data_dir,
        limit=limit,
        concurrency=concurrency,
        budget=Budget(max_cost_nano_usd=_nano(max_cost_usd), max_calls=max_calls, max_tokens=max_tokens),
        job_budget=JobBudget(_nano(job_max_cost_usd), job_max_calls, job_max_tokens, job_max_hours),
        strict=strict,
        patience=patience,
        restart=restart,
    )
    job.prepare()
    return asyncio.run(job.run())


def _nano(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1e9)
