"""One contestant of `peers.py`, in a process and an environment of its own.

    PYTHON peers_worker.py NAME URL LISTS.json

Reads lines `[list numbers]` and answers each with a line: the orders, the seconds by the clock and of this process's
processor time, and what the library itself says of replies that it mended. Needs nothing but the library.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

WINDOW, STRIDE = 20, 10
# A name that tiktoken knows, since two of the peers count tokens with it; the endpoint does not care.
MODEL = "gpt-4"
CONTEXT_TOKENS = 8192

Order = list[str]
Orders = list[Order]
List = dict[str, Any]


class Contestant:
    """A library, ready to rank lists through an endpoint."""

    told: Counter[str]

    def __init__(self, url: str) -> None:
        self.told = Counter()

    def rank(self, lists: list[List]) -> Orders:
        return [self.one(given) for given in lists]

    def one(self, given: List) -> Order:
        raise NotImplementedError

    def other_cpu_s(self) -> float:
        """Return the processor time of processes of its own."""
        return 0.0

    def close(self) -> None:
        pass


class Rerankers(Contestant):
    """`rerankers`: RankGPTRanker asks about one window. It has no walk, so that the loop over windows is ours."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        os.environ |= {"OPENAI_API_BASE": url, "OPENAI_BASE_URL": url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        from rerankers.models.rankgpt_rankers import RankGPTRanker

        self.ranker = RankGPTRanker(f"openai/{MODEL}", "k", verbose=0)

    def one(self, given: List) -> Order:
        texts = dict(zip(given["docids"], given["passages"], strict=True))
        order = list(given["docids"])
        for start in range(len(order) - WINDOW, -1, -STRIDE):
            docs = [texts[docid] for docid in order]
            found = self.ranker.rank(given["query"], docs, doc_ids=order, rank_start=start, rank_end=start + WINDOW)
            order = [each.document.doc_id for each in found.results]
        return order


class LlmRankers(Contestant):
    """`llm-rankers`: OpenAiListwiseLlmRanker, its own walk."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import openai

        openai.api_base = url
        from llmrankers.listwise import OpenAiListwiseLlmRanker
        from llmrankers.rankers import SearchResult

        self.result = SearchResult
        self.ranker = OpenAiListwiseLlmRanker(MODEL, "k", WINDOW, STRIDE, 1)

    def one(self, given: List) -> Order:
        pairs = zip(given["docids"], given["passages"], strict=True)
        found = self.ranker.rerank(given["query"], [self.result(docid, 0.0, text) for docid, text in pairs])
        return [each.docid for each in found]


class StandIn(types.ModuleType):
    """A module of which every name is a class that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class RankLlm(Contestant):
    """`rank_llm`: SafeOpenai with RankGPT's prompt, its own walk."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        for name in ("vllm", "vllm.outputs"):
            # Imported beside the way to an endpoint, and named in annotations; never called on it.
            sys.modules[name] = StandIn(name)
        from rank_llm.data import Candidate, Query, Request
        from rank_llm.rerank.listwise.rank_gpt import SafeOpenai
        from rank_llm.rerank.rankllm import PromptMode

        self.made = Candidate, Query, Request
        self.ranker = SafeOpenai(
            MODEL,
            CONTEXT_TOKENS,
            prompt_mode=PromptMode.RANK_GPT,
            window_size=WINDOW,
            stride=STRIDE,
            keys="k",
            base_url=f"{url}/",
        )

    def rank(self, lists: list[List]) -> Orders:
        candidate, query, request = self.made
        requests = [
            request(
                query(given["query"], given["qid"]),
                [
                    candidate(docid, 0.0, {"text": text})
                    for docid, text in zip(given["docids"], given["passages"], strict=True)
                ],
            )
            for given in lists
        ]
        found = self.ranker.rerank_batch(requests, rank_end=max(len(given["docids"]) for given in lists))
        return [[each.docid for each in result.candidates] for result in found]


def podium_section(url: str) -> dict[str, Any]:
    """Return Podium's configuration: one model, one pipeline."""
    return {
        "server": {"default_pipeline": "windows", "verdict_cache": False},
        "models": {
            "judge": {
                "backend": "openai",
                "model": MODEL,
                "base_url": url,
                "capabilities": ["text"],
                "context_tokens": CONTEXT_TOKENS,
                "concurrency": 128,
            }
        },
        "pipelines": {
            "windows": {
                "stages": [
                    {
                        "strategy": "sliding-window",
                        "model": "judge",
                        "prompt": "rank-gpt",
                        "size": WINDOW,
                        "stride": STRIDE,
                    }
                ]
            }
        },
    }


class PodiumLibrary(Contestant):
    """Podium in this process; `together` lists at a time."""

    together = 1

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from podium_server.compose import Podium
        from podium_server.config import parse

        self.loop = asyncio.new_event_loop()
        self.podium = Podium(parse(podium_section(url), where="bench"), data_dir=None)

    def rank(self, lists: list[List]) -> Orders:
        return self.loop.run_until_complete(self._all(lists))

    async def _all(self, lists: list[List]) -> Orders:
        places = asyncio.Semaphore(self.together)

        async def one(given: List) -> Order:
            async with places:
                return await self._one(given)

        return list(await asyncio.gather(*map(one, lists)))

    async def _one(self, given: List) -> Order:
        from podium_server.judges.case import Candidate
        from podium_server.ranking.request import RankRequest

        pairs = zip(given["docids"], given["passages"], strict=True)
        candidates = tuple(Candidate(docid, text) for docid, text in pairs)
        outcome = await self.podium.reranker.rerank(RankRequest(given["query"], candidates))
        self.told.update({kind: n for kind, n in outcome.ledger.total().repairs.items() if kind != "ok"})
        return [given["docids"][place] for place in outcome.order]

    def close(self) -> None:
        self.loop.run_until_complete(self.podium.aclose())


class PodiumLibraryTogether(PodiumLibrary):
    together = 64


class PodiumGrpc(Contestant):
    """`podium serve` in a process of its own, and its client: one Rerank after another, or one BatchRerank."""

    batch = False

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from podium_client import AsyncClient

        self.folder = tempfile.TemporaryDirectory(prefix="podium-bench-")
        config = Path(self.folder.name) / "podium.toml"
        config.write_text(_toml(podium_section(url)))
        flags = ["--config", str(config), "--port", "0", "--data-dir", str(Path(self.folder.name) / "store")]
        self.server = subprocess.Popen(
            [sys.executable, "-m", "podium_server", "serve", *flags],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout is not None
        address = self.server.stdout.readline().split()[-1]
        self.loop = asyncio.new_event_loop()

        async def connect() -> AsyncClient:
            return AsyncClient(address)

        self.client = self.loop.run_until_complete(connect())

    def rank(self, lists: list[List]) -> Orders:
        return self.loop.run_until_complete(self._all(lists))

    async def _all(self, lists: list[List]) -> Orders:
        from podium_client import BatchItem, PodiumError

        documents = [list(zip(given["docids"], given["passages"], strict=True)) for given in lists]
        if not self.batch:
            answers = [
                await self.client.rerank(given["query"], _documents(pairs))
                for given, pairs in zip(lists, documents, strict=True)
            ]
            return [self._told(given, answer) for given, answer in zip(lists, answers, strict=True)]
        items = [
            BatchItem(str(place), given["query"], _documents(pairs))
            for place, (given, pairs) in enumerate(zip(lists, documents, strict=True))
        ]
        orders: dict[int, Order] = {}
        async for answer in self.client.batch_rerank(items):
            if isinstance(answer.outcome, PodiumError):
                raise answer.outcome
            place = int(answer.item_id)
            orders[place] = self._told(lists[place], answer.outcome)
        return [orders[place] for place in range(len(lists))]

    def _told(self, given: List, answer: Any) -> Order:
        replies = answer.ledger.total.replies
        for kind in ("repetition", "missing", "wrong_format", "unreadable"):
            self.told[kind] += getattr(replies, kind)
        return [given["docids"][place] for place in answer.order]

    def other_cpu_s(self) -> float:
        return process_cpu_s(self.server.pid)

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.server.terminate()
        self.server.wait(30)
        self.folder.cleanup()


class PodiumGrpcBatch(PodiumGrpc):
    batch = True


CONTESTANTS: dict[str, tuple[Callable[[str], Contestant], tuple[str, ...]]] = {
    "rerankers": (Rerankers, ("rerankers", "litellm", "openai")),
    "llm-rankers": (LlmRankers, ("llm-rankers", "openai", "transformers", "torch")),
    "rank_llm": (RankLlm, ("rank-llm", "openai", "transformers", "torch")),
    "podium": (PodiumLibrary, ("podium", "openai")),
    "podium-together": (PodiumLibraryTogether, ("podium", "openai")),
    "podium-grpc": (PodiumGrpc, ("podium", "grpcio")),
    "podium-grpc-batch": (PodiumGrpcBatch, ("podium", "grpcio")),
}


def process_cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _documents(pairs: list[tuple[str, str]]) -> list[Any]:
    from podium_client import Document

    return [Document(docid, text) for docid, text in pairs]


def _toml(section: dict[str, Any]) -> str:
    """Return a configuration as TOML; its values are all strings, numbers, lists and tables."""

    def value(given: Any) -> str:
        if isinstance(given, dict):
            return "{ " + ", ".join(f"{key} = {value(each)}" for key, each in given.items()) + " }"
        if isinstance(given, list):
            return "[" + ", ".join(map(value, given)) + "]"
        return json.dumps(given)

    return "".join(
        f"[{table}]\n" + "".join(f"{key} = {value(each)}\n" for key, each in entries.items())
        for table, entries in section.items()
    )


def main() -> None:
    # What libraries print must not come between the lines of answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, url, path = sys.argv[1:4]
    if (litellm := importlib.util.find_spec("litellm")) is not None and litellm.origin is not None:
        # tiktoken's table, which otherwise comes over a network.
        tables = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ["TIKTOKEN_CACHE_DIR"] = str(tables)
    lists = json.loads(Path(path).read_text())
    make, shows = CONTESTANTS[name]
    contestant = make(url)
    # One window, uncounted: what a library imports at its first call is not what a call costs.
    contestant.rank([lists[0] | {key: lists[0][key][:WINDOW] for key in ("docids", "passages")}])
    versions = {shown: metadata.version(shown) for shown in shows}
    print(json.dumps({"versions": versions}), file=answers)
    for line in sys.stdin:
        chosen = [lists[number] for number in json.loads(line)]
        contestant.told.clear()
        cpu_s, other_s, began_s = time.process_time(), contestant.other_cpu_s(), time.perf_counter()
        failed = ""
        orders: Orders = []
        try:
            orders = contestant.rank(chosen)
        except Exception as error:  # noqa: BLE001  # the turn is lost, and the table says so
            failed = f"{type(error).__name__}: {error}"[:300]
        wall_s = time.perf_counter() - began_s
        spent = {
            "wall_s": wall_s,
            "cpu_s": time.process_time() - cpu_s,
            "server_cpu_s": contestant.other_cpu_s() - other_s,
        }
        print(json.dumps({"orders": orders, "failed": failed, "told": dict(+contestant.told), **spent}), file=answers)
    contestant.close()


if __name__ == "__main__":
    main()
