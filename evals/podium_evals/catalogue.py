"""The suites of the data folder: which file, which judgments, how much of it `make evals` has time for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podium_evals.first_stage import with_lists
from podium_evals.results import Reference
from podium_evals.suite import Suite, limited, read_suite

_PUBLISHED = "published"
_RANK_GPT = "README of RankGPT"


@dataclass(frozen=True, slots=True)
class Known:
    """A suite of the data folder.

    Args:
        name: of the suite.
        source: within `eval/`.
        qrels: within `eval/`; None takes those of the folder or of the lists.
        queries: at most; the first so many. None takes all.
        references: published figures on the same lists.

    """

    name: str
    source: str
    qrels: str | None = None
    queries: int | None = None
    references: tuple[Reference, ...] = ()

    def read(self, data: Path, queries: int | None = None, *, whole: bool = False) -> Suite:
        """Read it.

        Args:
            data: the folder that has `eval/`.
            queries: fewer, for a look.
            whole: all queries.

        Raises:
            SuiteError: it is not there, or cannot be used.

        """
        qrels = None if self.qrels is None else data / "eval" / self.qrels
        suite = read_suite(data / "eval" / self.source, qrels=qrels, name=self.name)
        most = [number for number in (None if whole else self.queries, queries) if number is not None]
        return with_lists(limited(suite, min(most, default=None)))


def _ndcg(figures: Mapping[str, float], source: str) -> tuple[Reference, ...]:
    return tuple(Reference(name, "nDCG@10", value, source) for name, value in figures.items())


DL19 = Known(
    "dl19",
    "dl19_bm25_top100.jsonl.gz",
    "qrels/dl19.txt",
    references=(
        *_ndcg({"monoBERT": 0.705, "monoT5-base": 0.715, "RankZephyr": 0.739, "RankGPT-4": 0.756}, _PUBLISHED),
        *_ndcg({"a perfect order of these lists": 0.892}, "computed"),
    ),
)
# In tokens, all lists of NFCorpus are nineteen times all of DL19, and those of RGB three times: a cross-encoder would
# take more time for the whole of both than for all other suites together.
SUITES = (
    DL19,
    Known(
        "noveleval",
        "noveleval_top20.jsonl.gz",
        references=_ndcg({"monoBERT": 0.773, "monoT5-base": 0.813, "gpt-4": 0.905}, _RANK_GPT),
    ),
    Known("wikiqa-dev", "wikiqa_dev.jsonl.gz"),
    Known("trecqa-dev", "trecqa_dev.jsonl.gz"),
    Known("selqa-dev", "selqa_dev.jsonl.gz"),
    Known("nfcorpus-dev", "nfcorpus", queries=150),
    Known("rgb-zh", "rgb_zh.jsonl.gz", queries=150),
)
"""DL19's lists first: they are those of the recordings."""
