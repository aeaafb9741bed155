"""`podium optimize`: a model in int8, with what it loses and gains."""

from __future__ import annotations

from pathlib import Path

import click

from podium_server.cli import options
from podium_server.cli.app import DONE, Command


@click.command(
    "optimize",
    cls=Command,
    epilog=options.example(
        """
podium optimize ./my-cross-encoder --calibrate lists.jsonl.gz --out ./my-cross-encoder-int8
podium optimize org/name --calibrate train.jsonl.gz --measure dev.jsonl.gz --labels dev.qrels
podium optimize ./my-encoder --calibrate lists.jsonl.gz --weights-only"""
    ),
)
@click.argument("model", metavar="MODEL")
@click.option("--calibrate", metavar="LISTS", required=True, help="Queries and candidates like those to come.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder to write.  [default: the model's name with -int8, here]",
)
@click.option(
    "--measure",
    metavar="LISTS",
    help="Measure on these.  [default: every other list of --calibrate, which then is not calibrated with]",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="QRELS",
    help="Judgments for --measure (TREC).  [default: the candidates' own `rel`, where they have one]",
)
@click.option(
    "--kind",
    type=click.Choice(["cross-encoder", "encoder"]),
    help="What the model is.  [default: what its own files say]",
)
@click.option("--weights-only", is_flag=True, help="Leave activations as they are: exact to three digits, and slower.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.9,
    metavar="A",
    help="How much of activations' outliers moves into the weights (SmoothQuant).",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="REGEX",
    help="Leave products of such names as they are: 'encoder.layer.5.' is the sixth layer.",
)
@click.option(
    "--last-layer", is_flag=True, help="Of a cross-encoder: its last layer too. Faster by a few percent, less exact."
)
@click.option(
    "--samples", type=click.IntRange(1, 5000), default=200, metavar="N", help="Pairs, or texts, to calibrate with."
)
@click.option("--lists", type=click.IntRange(1), default=50, metavar="N", help="Measure on the first N lists at most.")
def command(
    model: str,
    calibrate: str,
    out: Path | None,
    measure: str | None,
    labels: Path | None,
    kind: str | None,
    weights_only: bool,
    alpha: float,
    keep: tuple[str, ...],
    last_layer: bool,
    samples: int,
    lists: int,
) -> int:
    """Make a model's numbers int8, and say what it loses and gains.

    MODEL is a folder or a name on the hub, of a cross-encoder or an encoder, with weights that are not int8 yet. LISTS
    are those of `podium rerank`: {"qid", "query", "candidates": [{"docid", "text", "rel"?}]} a line. What is written is
    a folder that a configuration names as `model`, with a card that says how it was made.

    Prints, for float32, the model as it is served now and as int8: nDCG@10 where there are judgments, the rank
    correlation of scores with float32's and their largest difference, pairs (or texts) a second, size and memory.
    """
    from podium_server.backends.openvino.quantize import Quantization
    from podium_server.cli.optimizing.optimize import Wanted, optimize

    how = Quantization(activations=not weights_only, alpha=alpha, keep=keep, last_layer=last_layer)
    optimize(
        model,
        Wanted(out=out or Path(f"{Path(model).name}-int8"), kind=kind, how=how, samples=samples, lists=lists),
        calibrate,
        measure,
        labels,
    )
    return DONE
