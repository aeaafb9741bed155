"""`podium export-labels`: labels as trainers read them."""

from __future__ import annotations

import sys
from typing import Any

import click

from podium_server.cli import options
from podium_server.cli.app import Command

TARGETS = ("listwise", "pointwise", "triplets", "pairs", "conversations", "qrels")
VALUES = ("auto", "scores", "linear", "reciprocal", "grades")


@click.command(
    "export-labels",
    cls=Command,
    epilog=options.example(
        """
podium export-labels labels.jsonl --to listwise --agreement-min 0.6 --out train.parquet
podium export-labels labels.jsonl --to triplets --positives 2 --negatives 8 --out triplets.jsonl
podium export-labels labels.jsonl --to conversations --prompt rank-zephyr --out conversations.jsonl
podium export-labels labels.jsonl --to qrels --grade-ranks 1,5,20 --out teacher.qrels"""
    ),
)
@click.argument("source", metavar="LABELS")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="What for; see above.")
@click.option("--out", metavar="OUT", required=True, help="`-` is standard output.")
@click.option(
    "--agreement-min",
    type=click.FloatRange(-1, 1),
    metavar="TAU",
    help="Leave out labels whose runs agree less (mean Kendall's tau), and those that have no agreement.",
)
@click.option("--unrepaired", is_flag=True, help="Leave out labels of which a reply had to be mended.")
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="Of each ranking only the first K.")
@click.option(
    "--values",
    type=click.Choice(VALUES),
    default="auto",
    help="What a rank is worth in tables: the teacher's scores, 1 - (rank - 1)/n, 1/rank, or a grade; auto is "
    "scores where every candidate has one, else linear.",
)
@click.option(
    "--grade-ranks",
    default="1,5,10",
    metavar="R,…",
    help="The last rank of each grade, from the highest down: by default rank 1 is grade 3, 2 to 5 is 2, 6 to 10 is 1.",
)
@click.option(
    "--grade-scores",
    metavar="S,…",
    help="qrels: grade by the teacher's scores instead: the least score of each grade, from the highest down.",
)
@click.option("--positives", type=click.IntRange(min=1), default=1, metavar="N", help="triplets: of the first ranks.")
@click.option(
    "--negatives", type=click.IntRange(min=1), default=8, metavar="N", help="triplets: for each, spread over the rest."
)
@click.option("--prompt", default="rank-zephyr", metavar="PROMPT", help="conversations: a listwise one, or a file.")
@click.option("--window", type=click.IntRange(min=2), default=20, metavar="N", help="conversations: candidates shown.")
@click.option(
    "--stride", type=click.IntRange(min=1), metavar="N", help="conversations: between windows.  [default: half of one]"
)
@click.option(
    "--window-shuffles",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="conversations: of each window so many more, shuffled.",
)
@click.option(
    "--style",
    type=click.Choice(["messages", "sharegpt"]),
    default="messages",
    help="conversations: {role, content} as chat templates read it, or {from, value}.",
)
@click.option("--seed", type=int, default=0, metavar="N", help="Of the shuffles.")
def command(**given: Any) -> None:
    """Turn labels into what trainers read.

    LABELS is what `podium label` wrote. OUT is JSON lines, .gz to compress them, or .parquet (extra `parquet`).

    \b
    listwise       {"query", "docs", "labels"}: ListNet, ListMLE, RankNet, LambdaLoss of sentence-transformers
    pointwise      {"query", "document", "label"}: a row a candidate
    triplets       {"anchor", "positive", "negative", "label"}: MarginMSE; label is the margin
    pairs          the same, of the pairs that the teacher judged alike in both orders
    conversations  prompt and ranking as RankVicuna and RankZephyr are fine-tuned on them
    qrels          graded judgments for trec_eval

    What was left out is counted by its reason.
    """  # noqa: D301  # \b keeps the lines of a paragraph, and is no backslash
    from podium_server.labels.export import export

    done = export(given["source"], given["out"], _recipe(given))
    for reason, number in sorted(done.skipped.reasons.items()):
        click.echo(f"left out: {number:,} {reason}", err=True)
    click.echo(f"{done.examples:,} lines of {given['target']} from {done.labels:,} labels", err=True)
    sys.stderr.flush()


def _recipe(given: dict[str, Any]) -> Any:
    from podium_server.errors import InvalidRequest, NotFound
    from podium_server.labels.conversations import Windows, check_teaches
    from podium_server.labels.examples import Selection, Valuation
    from podium_server.labels.export import Recipe
    from podium_strategies import prompts
    from podium_strategies.prompts.file import InvalidPromptFile

    prompt = None
    if given["target"] == "conversations":
        try:
            prompt = prompts.load(given["prompt"])
        except prompts.UnknownPrompt as error:
            raise NotFound("prompt", error.name, error.known) from error
        except InvalidPromptFile as error:
            raise InvalidRequest("--prompt", str(error)) from error
        check_teaches(prompt)
    thresholds = None if given["grade_scores"] is None else _numbers("--grade-scores", given["grade_scores"], float)
    if thresholds is not None and given["target"] != "qrels":
        raise click.UsageError("--grade-scores is for --to qrels.")
    try:
        return Recipe(
            given["target"],
            Selection(given["agreement_min"], given["unrepaired"], given["top"]),
            Valuation(given["values"], _numbers("--grade-ranks", given["grade_ranks"], int)),
            given["positives"],
            given["negatives"],
            prompt,
            Windows(
                given["window"],
                given["stride"] or max(1, given["window"] // 2),
                given["window_shuffles"],
                given["seed"],
            ),
            given["style"],
            thresholds,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _numbers(name: str, text: str, kind: Any) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{name} is {text!r}: numbers with commas between them") from None
