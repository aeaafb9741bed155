"""Recall at 100,000 passages: nearest neighbours, words, the two together, and quality on real judgments.

    python bench/recall.py [vectors] [bm25] [search] [quality] [--passages N] [--data /work/shared/data/eval]

Passages are windows of this machine's own Python library, so that nothing has to be fetched. Vectors are (a) 1,000
synthetic clusters and (b) sums of random word directions weighted by idf, which have the uneven nearness of text.
"""

import argparse
import contextlib
import functools
import gzip
import json
import math
import os
import random
import re
import resource
import sqlite3
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
from numpy.typing import NDArray

from podium_server.recall import lexical
from podium_server.recall.document import Document
from podium_server.recall.engine import Engine, new_stream
from podium_server.recall.filters import Equals
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import RecallQuery
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.text import document_terms, query_terms, words
from podium_server.recall.vectors import Proposals, VectorSettings

DIM = 384
K = 100
QUERIES = 200
Floats = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["vectors", "bm25", "search", "quality"])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=Path("/work/shared/data/eval"))
    args = parser.parse_args()
    for part in args.parts:
        print(f"\n== {part}")
        {"vectors": vectors, "bm25": bm25, "search": search, "quality": quality}[part](args)


def timed(label: str, call: Callable[[int], object], n: int = QUERIES, note: str = "") -> None:
    for i in range(5):
        call(i)
    times = []
    for i in range(n):
        begun = time.perf_counter()
        call(i)
        times.append((time.perf_counter() - begun) * 1e3)
    print(
        f"{label:44s} p50 {np.percentile(times, 50):8.2f} ms   p95 {np.percentile(times, 95):8.2f} ms   {note}",
        flush=True,
    )


def rss_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@functools.cache
def texts(n: int) -> tuple[list[str], list[str]]:
    """Return n passages of about 60 words, and questions: first lines of docstrings."""
    lines: list[str] = []
    questions: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        with contextlib.suppress(UnicodeDecodeError):
            source = path.read_text("utf-8")
            lines.extend(line for line in source.splitlines() if len(line) > 20)
            questions.extend(re.findall(r'"""([A-Z][^"\n]{30,90})\n', source))
    random.seed(5)
    starts = random.sample(range(len(lines) - 10), n)
    return [" ".join(" ".join(lines[start : start + 8]).split()) for start in starts], random.sample(questions, QUERIES)


def clusters(n: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(7)
    centres = unit(rng.standard_normal((1000, DIM)).astype(np.float32))

    def draw(m: int) -> Floats:
        noise = rng.standard_normal((m, DIM)).astype(np.float32) / math.sqrt(DIM)
        return unit(centres[rng.integers(0, 1000, m)] + noise)

    return draw(n), draw(QUERIES)


def word_sums(n: int) -> tuple[Floats, Floats]:
    passages, questions = texts(n)
    seen: Counter[str] = Counter()
    cut = [list(words(text)) for text in passages]
    for one in cut:
        seen.update(set(one))
    place = {word: i for i, word in enumerate(seen)}
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((len(place), DIM)).astype(np.float32) / math.sqrt(DIM)
    directions *= np.array([math.log(n / seen[word]) for word in place], np.float32)[:, None]

    def embed(all_words: Sequence[Sequence[str]]) -> Floats:
        rows = np.zeros((len(all_words), DIM), np.float32)
        for row, one in zip(rows, all_words, strict=True):
            known = [place[word] for word in one if word in place]
            row += directions[known].sum(axis=0)
        return unit(rows)

    return embed(cut), embed([list(words(text)) for text in questions])


def unit(x: Floats) -> Floats:
    scaled: Floats = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return scaled


def vectors(args: argparse.Namespace) -> None:
    for name, make in (("clusters", clusters), ("word sums", word_sums)):
        rows, queries = make(args.passages)
        least = -np.partition(-(queries @ rows.T), K - 1, axis=1)[:, K - 1]
        timed(f"{name}: float32, one by one", lambda i, r=rows, q=queries: np.argpartition(r @ q[i % QUERIES], -K)[-K:])  # type: ignore[misc]
        for exact in (True, False):
            settings = VectorSettings(exact_up_to=10**9 if exact else 5000, threads=2)
            begun = time.perf_counter()
            index = Proposals.of(rows, settings, lambda: False)
            built_s = time.perf_counter() - begun

            def find(i: int, index: Proposals = index, rows: Floats = rows, queries: Floats = queries) -> Floats:
                query = queries[i % QUERIES]
                near = index.search(query, 2 * K, None)
                scores = rows[near] @ query
                return np.sort(scores)[::-1][:K]

            recall = np.mean([(find(i) >= least[i] - 1e-6).mean() for i in range(QUERIES)])
            kind = "SQ8 flat, rescored" if exact else f"HNSW{settings.links} SQ8 ef {settings.search_effort}, rescored"
            timed(f"{name}: {kind}", find, note=f"recall@{K} {recall:.4f}   built in {built_s:.1f} s")
        print(f"peak RSS {rss_mib()} MiB")


def bm25(args: argparse.Namespace) -> None:
    passages, questions = texts(args.passages)
    begun = time.perf_counter()
    terms, counts, lengths = zip(*map(document_terms, passages), strict=True)
    print(f"terms of {len(passages)} passages (mean {np.mean(lengths):.0f}) in {time.perf_counter() - begun:.1f} s")
    begun = time.perf_counter()
    postings = (lexical.transpose(0, terms, counts),)
    print(f"transposed in {time.perf_counter() - begun:.1f} s, {postings[0].bytes >> 20} MiB")
    all_lengths = np.array(lengths, np.int32)

    def ours(i: int) -> object:
        scores = lexical.scores(postings, query_terms(questions[i % QUERIES]), all_lengths)
        return np.argpartition(scores, -K)[-K:]

    timed("BM25 in memory", ours)
    with tempfile.TemporaryDirectory() as directory:
        database = sqlite3.connect(Path(directory) / "fts.sqlite")
        database.execute("CREATE VIRTUAL TABLE f USING fts5(body, tokenize = 'porter unicode61')")
        database.executemany("INSERT INTO f VALUES (?)", ((" ".join(words(text)),) for text in passages))
        database.commit()

        def frequency(word: str) -> int:
            found: int = database.execute("SELECT count(*) FROM f WHERE f MATCH ?", (f'"{word}"',)).fetchone()[0]
            return found

        def fts(i: int, postings_max: int) -> object:
            query = list(dict.fromkeys(words(questions[i % QUERIES])))
            kept = query
            if postings_max:
                read, kept = 0, []
                for count, word in sorted((frequencies[word], word) for word in query):
                    if kept and read + count > postings_max:
                        break
                    read += count
                    kept.append(word)
            joined = " OR ".join(f'"{word}"' for word in kept)
            return database.execute(
                "SELECT rowid, rank FROM f WHERE f MATCH ? ORDER BY rank LIMIT ?", (joined, K)
            ).fetchall()

        frequencies = {word: frequency(word) for question in questions for word in words(question)}
        timed("FTS5, OR of all terms", lambda i: fts(i, 0), n=60)
        timed("FTS5, rarest terms up to 5,000 postings", lambda i: fts(i, 5_000), n=60)


@dataclass(frozen=True)
class Known:
    """An encoder that looks its answers up."""

    vectors_of: dict[str, Floats]
    tokens: int = 0
    name: str = "known"
    revision: str = "1"
    dim: int = DIM
    max_tokens: int = 256
    has_token_vectors: bool = True

    @dataclass(frozen=True)
    class Encoded:
        vectors: Floats
        token_vectors: tuple[Floats, ...] | None
        truncated: tuple[bool, ...]
        prompt_tokens: int = 0
        calls: int = 0
        retries: int = 0
        cache_hits: int = 0
        tokenize_s: float = 0.0
        infer_s: float = 0.0

    def encode_queries(self, batch: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        rng = np.random.default_rng(1)
        tokens = tuple(unit(rng.standard_normal((self.tokens, DIM)).astype(np.float32)) for _ in batch)
        found = np.array([self.vectors_of[text] for text in batch])
        return self.Encoded(found, tokens if token_vectors else None, (False,) * len(batch))

    encode_documents = encode_queries

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def quantize(tokens: Floats) -> tuple[NDArray[np.int8], Floats]:
    scales = np.maximum(np.abs(tokens).max(axis=1), 1e-9).astype(np.float32) / 127
    return np.rint(tokens / scales[:, None]).astype(np.int8), scales


def index(engine: Engine, name: str, documents: Sequence[Document]) -> None:
    stream = new_stream()
    for start in range(0, len(documents), 64):
        part = list(enumerate(documents[start : start + 64], start))
        engine.write(engine.prepare(name, part), stream=stream)


def search(args: argparse.Namespace) -> None:
    n = args.passages
    passages, questions = texts(n)
    rows, queries = word_sums(n)
    known = dict(zip(passages, rows, strict=True)) | dict(zip(questions, queries, strict=True))
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory)

        def open_(encoder: Known) -> Engine:
            return Engine(data_dir, lambda _: encoder, RecallLimits(), VectorSettings(), quantize)

        engine = open_(Known(known))
        engine.create("c", CollectionSettings("known"))
        begun = time.perf_counter()
        index(engine, "c", [Document(str(i), text, metadata={"part": i % 10}) for i, text in enumerate(passages)])
        took = time.perf_counter() - begun
        print(f"{n} documents stored in {took:.1f} s: {n / took:.0f} a second beside encoding, each batch of 64 synced")
        engine.close()
        size = sum(file.stat().st_size for file in data_dir.rglob("*") if file.is_file())
        print(f"{size >> 20} MiB on the disk")
        begun = time.perf_counter()
        engine = open_(Known(known))
        opened = time.perf_counter()
        engine.warm()
        print(f"opened in {(opened - begun) * 1e3:.0f} ms, loaded in {time.perf_counter() - opened:.2f} s")
        engine.settle("c")

        def ask(**options: object) -> Callable[[int], object]:
            return lambda i: engine.search(RecallQuery("c", questions[i % QUERIES], K, **options))  # type: ignore[arg-type]

        timed("search, vector", ask(weights={"vector": 1.0}))
        timed("search, bm25", ask(weights={"bm25": 1.0}))
        timed("search, both", ask())
        timed("search, both, filter of a tenth", ask(filter=Equals("part", 3)))
        print("one search:", engine.search(RecallQuery("c", questions[0], K)).timings)
        print(engine.stats("c"))
        print(f"peak RSS {rss_mib()} MiB (with the texts and vectors of this benchmark)")
        engine.close()
        engine = open_(Known(known, tokens=130))
        engine.create("tokens", CollectionSettings("known", token_vectors=True))
        index(engine, "tokens", [Document(str(i), text) for i, text in enumerate(passages[:5000])])
        rng = np.random.default_rng(2)
        chunks = [
            [hit.chunk for hit in engine.search(RecallQuery("tokens", questions[i], K)).hits]
            for i in rng.integers(0, 200, 20)
        ]
        timed("token vectors of 100 passages (130 × 384)", lambda i: engine.token_vectors("tokens", chunks[i % 20]))
        print(f"token vector loss {engine.stats('tokens').token_vector_loss:.5f}")
        engine.close()


def quality(args: argparse.Namespace) -> None:
    if not args.data.exists():
        print(f"{args.data} is not here")
        return
    with gzip.open(args.data / "nfcorpus/corpus.jsonl.gz", "rt") as file:
        corpus = [json.loads(line) for line in file]
    with gzip.open(args.data / "nfcorpus/queries_dev.jsonl.gz", "rt") as file:
        asked = [(row["qid"], row["query"]) for row in map(json.loads, file)]
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (args.data / "nfcorpus/qrels_dev.txt").read_text().splitlines():
        qid, _, document, grade = line.split()
        qrels[qid][document] = int(grade)
    documents = [Document(row["docid"], fields=(("title", row["title"]), ("text", row["text"]))) for row in corpus]
    report("NFCorpus dev, BM25", documents, asked, qrels)
    ndcg = average = 0.0
    with gzip.open(args.data / "rgb_zh.jsonl.gz", "rt") as file:
        lists = [json.loads(line) for line in file]
    # All candidates of all questions together are the collection; each question ranks its own candidates.
    for row in lists:
        lengths, terms, counts = [], [], []
        for candidate in row["candidates"]:
            distinct, count, length = document_terms(candidate["text"])
            terms.append(distinct)
            counts.append(count)
            lengths.append(length)
        scores = lexical.scores(
            (lexical.transpose(0, terms, counts),), query_terms(row["query"]), np.array(lengths, np.int32)
        )
        order = [row["candidates"][i]["rel"] for i in np.argsort(-scores, kind="stable")]
        ndcg += gain(order, order)
        hits = np.cumsum([rel > 0 for rel in order])
        places = np.flatnonzero(np.array(order) > 0)
        average += float(np.mean(hits[places] / (places + 1))) if len(places) else 0.0
    print(
        f"RGB (Chinese), each question's own candidates, BM25: "
        f"nDCG@10 {ndcg / len(lists):.4f}, MAP {average / len(lists):.4f}"
    )
    pooled = {
        candidate["text"]: f"{row['qid']}/{candidate['docid']}" for row in lists for candidate in row["candidates"]
    }
    wanted: dict[str, dict[str, int]] = defaultdict(dict)
    for row in lists:
        for candidate in row["candidates"]:
            if candidate["rel"] > 0:
                wanted[row["qid"]][pooled[candidate["text"]]] = candidate["rel"]
    together = [Document(key, text) for text, key in pooled.items() if text.strip()]
    report(
        "RGB (Chinese), all candidates as one collection, BM25",
        together,
        [(r["qid"], r["query"]) for r in lists],
        wanted,
    )


def report(
    label: str, documents: Sequence[Document], asked: Sequence[tuple[str, str]], qrels: dict[str, dict[str, int]]
) -> None:
    @dataclass(frozen=True)
    class Blind(Known):
        def encode_documents(self, batch: Sequence[str], *, token_vectors: bool = False) -> Known.Encoded:
            return self.Encoded(np.zeros((len(batch), 8), np.float32), None, (False,) * len(batch))

        def token_spans(self, text: str) -> list[tuple[int, int]]:
            return [found.span() for found in re.finditer(r"[\u2e80-\u9fff]|\w+|[^\w\s]", text)]

    with tempfile.TemporaryDirectory() as directory:
        engine = Engine(Path(directory), lambda _: Blind({}, dim=8), RecallLimits(), VectorSettings(), None)
        engine.create("c", CollectionSettings("known"))
        index(engine, "c", documents)
        total = 0.0
        for qid, text in asked:
            hits = engine.search(RecallQuery("c", text, 10, weights={"bm25": 1.0})).hits
            total += gain([qrels[qid].get(hit.id, 0) for hit in hits], list(qrels[qid].values()))
        stats = engine.stats("c")
        print(f"{label}: nDCG@10 {total / len(asked):.4f} ({stats.documents} documents, {stats.passages} passages)")
        engine.close()


def gain(order: Sequence[int], known: Sequence[int]) -> float:
    def dcg(grades: Sequence[int]) -> float:
        return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades[:10]))

    best = dcg(sorted(known, reverse=True))
    return dcg(order) / best if best else 0.0


if __name__ == "__main__":
    main()
