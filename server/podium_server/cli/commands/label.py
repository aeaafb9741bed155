"""`podium label`: what a teacher says of many lists, for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from podium_server.cli import options
from podium_server.cli.app import Command


@click.command(
    "label",
    cls=Command,
    epilog=options.example(
        """
podium label --config podium.toml --pipeline best lists.jsonl --out labels.jsonl
podium label --config podium.toml --pipeline best lists.jsonl --out labels.jsonl --shuffles 4 --job-max-cost-usd 20
podium export-labels labels.jsonl --to listwise --agreement-min 0.6 --out train.jsonl"""
    ),
)
@click.argument("source", metavar="LISTS")
@options.pipeline
@options.of_a_job
@click.option(
    "--shuffles",
    type=click.IntRange(0, 100),
    default=0,
    metavar="M",
    help="Ask again over M shuffles of each list, and tell how far the answers agree. Costs as much each time.",
)
@click.option(
    "--agreement-top", type=click.IntRange(min=1), default=10, metavar="K", help="Ranks whose overlap is told."
)
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    metavar="K",
    help="Of each list ask about K pairs, too, in both orders. What a pairwise pipeline asks is in the labels anyhow.",
)
@click.option(
    "--pairs-depth", type=click.IntRange(min=2), default=20, metavar="D", help="Draw them from the first D ranks."
)
@click.option("--pairs-model", metavar="MODEL", help="Who answers.  [default: the pipeline's last chat model]")
@click.option("--pairs-prompt", metavar="PROMPT", help="How it is asked.  [default: pairwise]")
@click.option("--seed", type=int, default=0, metavar="N", help="Of shuffles, drawn pairs and models that sample.")
@click.option("--texts/--no-texts", default=True, help="Write the candidates' texts, too; exports need them.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Remember chat models' verdicts in the store there.  [default: OUT.verdicts, removed when the job is whole]",
)
def command(**given: Any) -> int:
    """Have a pipeline, the teacher, label many lists.

    LISTS are as for `podium rerank`. OUT gets one line a list, `podium-labels/1` (see docs/labels.md): the ranking,
    scores where the pipeline has them, the agreement over shuffles, verdicts on pairs as they were shown, and who said
    it: models, revisions, prompts with their hashes, parameters, Podium's version. A list whose pipeline did not end is
    an error, and no label.

    The lines hold nothing that differs between two runs: whatever ends the job (Ctrl-C, a crash, kill -9), the same
    command goes on and ends with the same bytes, and verdicts that are there are not paid again. Cost and time are in
    OUT.ledger.jsonl, a line a list, and in OUT.summary.json.

    \b
    Exit codes: 0 all labelled; 1 something failed; 2 misused; 3 the job's budget is spent; 130 interrupted.
    """  # noqa: D301  # \b keeps the lines of a paragraph, and is no backslash
    import asyncio

    from podium_server.cli.job_runs.label import LabelJob

    if not given["pairs"]:
        for name in ("pairs_model", "pairs_prompt"):
            if given[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} needs --pairs.")
    if given["out"].endswith(".parquet"):
        raise click.UsageError("--out is Parquet, and labels are JSON lines; podium export-labels makes tables.")
    job = LabelJob.prepared(given)
    return asyncio.run(job.run())
