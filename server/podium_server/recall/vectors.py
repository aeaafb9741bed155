"""Nearest neighbours over passages: FAISS over 8-bit codes, always scored again with the vectors themselves.

FAISS only proposes; what it proposes is scored exactly (float32), so that no score depends on an index. Up to
`exact_up_to` vectors every code is looked at (SQ8 "direct signed": a quarter of float32's memory traffic, which is what
such a search is made of); above it an HNSW graph over the same codes.

`python bench/recall.py vectors` prints these (100,000 × 384, k = 100, one search at a time, two EPYC cores that others
use too, so ± a half; recall@100 against float32; other efforts by `VectorSettings`):

    |                               | clusters, p50 | recall | sums of word vectors, p50 | recall | built in |
    | ----------------------------- | ------------- | ------ | ------------------------- | ------ | -------- |
    | float32, one by one (numpy)   | 20.5 ms       | 1      | 12.8 ms                   | 1      | –        |
    | SQ8 flat, 200 rescored        | 4.0 ms        | 1.0000 | 2.9 ms                    | 1.0000 | 0.5 s    |
    | HNSW32 SQ8, efSearch 384      | 3.0 ms        | .9980  | 2.1 ms                    | .9298  | 110 s    |
    | HNSW32 SQ8, efSearch 640      |               |        | 6.9 ms                    | .9536  |          |
    | HNSW32 SQ8, efSearch 1024     |               |        | 13.7 ms                   | .9721  |          |

So a graph is worth its minutes of building, and its misses, only for several hundred thousand vectors. Tried and left:
fp16 codes and trained SQ8 (nearly twice the time), RaBitQ with 1 bit and 1,000 rescored (1.4 to 2.4 ms, recall .96 to
.99), 4 and 6 bits (slower than 8), two threads for one query (slower than one).

A code is 127 × the component: no component of a vector of length 1 is outside, so that there is no range to learn, to
drift or to clip.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.recall.encoding import Floats

_CODE_MAX = 127.0
_MAGIC = b"PODIUM-VECTORS-1"
_CHECKSUM_BYTES = 32
_ADDED_AT_A_TIME = 1024


@dataclass(frozen=True, slots=True)
class VectorSettings:
    """How vectors are searched.

    Args:
        plain_rows: up to so many, and for that many newest ones, there is no index: one float32 product.
        exact_up_to: vectors that are all looked at; above it a graph.
        links: of each node of the graph (HNSW's M).
        build_effort: candidates kept while a node is put into the graph (efConstruction).
        search_effort: candidates kept while the graph is searched (efSearch); at least twice k is taken.
        rescored: candidates scored again for each one that is wanted.
        dead_share: of all vectors that may be deleted ones before they are cleared away.
        threads: that build a graph, beside those that search.

    """

    plain_rows: int = 4096
    exact_up_to: int = 300_000
    links: int = 32
    build_effort: int = 120
    search_effort: int = 640
    rescored: int = 2
    dead_share: float = 0.25
    threads: int = 1

    def __post_init__(self) -> None:
        if self.plain_rows < 1 or self.exact_up_to < self.plain_rows:
            raise ValueError(f"plain_rows {self.plain_rows} is not from 1 to exact_up_to {self.exact_up_to}")
        if min(self.links, self.build_effort, self.search_effort, self.rescored, self.threads) < 1:
            raise ValueError(f"{self}: every effort is at least 1")
        if not 0 < self.dead_share <= 1:
            raise ValueError(f"dead_share {self.dead_share} is not above 0 and up to 1")


class BuildStopped(Exception):
    """The server is stopping; the index will be made when it starts again."""


class IndexFileRefused(Exception):
    """An index file cannot be trusted. The index is made again from the store; nothing is lost."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """An immutable FAISS index over the first `count` slots.

    Args:
        index: FAISS's.
        count: vectors in it.
        graph: whether it is an HNSW graph.
        search_effort: of the graph.

    """

    index: Any
    count: int
    graph: bool
    search_effort: int

    @classmethod
    def of(cls, rows: Floats, settings: VectorSettings, stopped: Callable[[], bool]) -> Proposals:
        """Index `rows` (n, dim). Takes 0.2 s for 100,000 rows; a graph takes about a minute for each 100,000.

        Raises:
            BuildStopped: `stopped`, which is asked now and then, said so.

        """
        faiss = _faiss()
        graph = len(rows) > settings.exact_up_to
        kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
        if graph:
            index = faiss.IndexHNSWSQ(rows.shape[1], kind, settings.links, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = settings.build_effort
        else:
            index = faiss.IndexScalarQuantizer(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        # The codes are fixed; FAISS only wants to have been asked.
        index.train(np.zeros((1, rows.shape[1]), np.float32))
        _add(index, rows, settings, stopped)
        return cls(index, len(rows), graph, settings.search_effort)

    def extended(self, rows: Floats, settings: VectorSettings, stopped: Callable[[], bool]) -> Proposals:
        """Return a copy with more rows. This one goes on being searched meanwhile.

        Raises:
            BuildStopped: `stopped`, which is asked now and then, said so.

        """
        faiss = _faiss()
        index = faiss.clone_index(self.index)
        _add(index, rows, settings, stopped)
        return Proposals(index, self.count + len(rows), self.graph, self.search_effort)

    def search(self, query: Floats, k: int, allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Return up to `k` slots that are near to `query` (dim,), in no order.

        Args:
            query: of length 1.
            k: how many.
            allowed: (≥ count,) which slots may be proposed; None allows all. A graph may then find fewer than k.

        """
        faiss = _faiss()
        # Each thread has its own setting. One query in several threads is slower than in one: starting them costs
        # more than they save.
        faiss.omp_set_num_threads(1)
        selector = None
        if allowed is not None:
            bitmap = np.packbits(allowed[: self.count], bitorder="little")
            selector = faiss.IDSelectorBitmap(bitmap)
        if self.graph:
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.search_effort, 2 * k), sel=selector)
        else:
            parameters = faiss.SearchParameters(sel=selector) if selector is not None else None
        # The code path reads a query as whole numbers too. Its scale changes no order.
        scale = _CODE_MAX / max(float(np.abs(query).max()), 1e-12)
        _, found = self.index.search(np.rint(query * scale)[None, :], min(k, self.count), params=parameters)
        slots: NDArray[np.int64] = found[0]
        return slots[slots >= 0]

    # --- on the disk --------------------------------------------------------------------------------------------

    def save(self, path: Path, ids: NDArray[np.int64], token: str) -> int:
        """Write the index so that it is there whole or not at all, and return the size in bytes.

        Args:
            path: of the file.
            ids: (count,) the passage in each slot.
            token: that the store keeps too, so that a file of another store, or of another time, is known.

        Raises:
            OSError: it cannot be written.

        """
        faiss = _faiss()
        header = json.dumps({"token": token, "count": self.count, "dim": self.index.d, "graph": self.graph}).encode()
        body = b"".join((struct.pack("<I", len(header)), header, ids.astype("<i8").tobytes()))
        payload = faiss.serialize_index(self.index)
        checksum = hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES)
        checksum.update(payload)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".tmp")
        try:
            with half.open("wb") as file:
                file.write(_MAGIC + checksum.digest())
                file.write(body)
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
        return path.stat().st_size

    @classmethod
    def load(
        cls, path: Path, token: str | None, dim: int, settings: VectorSettings
    ) -> tuple[Proposals, NDArray[np.int64]]:
        """Read an index, and the passage in each of its slots.

        Raises:
            FileNotFoundError: there is none.
            IndexFileRefused: it is damaged, of another store or time, or of other settings.

        """
        faiss = _faiss()
        content = path.read_bytes()
        start = len(_MAGIC) + _CHECKSUM_BYTES
        if content[: len(_MAGIC)] != _MAGIC:
            raise IndexFileRefused("it does not begin as an index file does")
        body = memoryview(content)[start:]
        if hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES).digest() != content[len(_MAGIC) : start]:
            raise IndexFileRefused("its checksum is wrong")
        (header_bytes,) = struct.unpack("<I", body[:4])
        header = json.loads(bytes(body[4 : 4 + header_bytes]))
        if token is None or header["token"] != token:
            raise IndexFileRefused("the store does not know it: it is stale, or of another store")
        count = header["count"]
        if header["dim"] != dim or header["graph"] != (count > settings.exact_up_to):
            raise IndexFileRefused("it was made with other settings")
        ids_end = 4 + header_bytes + 8 * count
        ids = np.frombuffer(body[4 + header_bytes : ids_end], "<i8").astype(np.int64)
        index = faiss.deserialize_index(np.frombuffer(body[ids_end:], np.uint8))
        return cls(index, count, header["graph"], settings.search_effort), ids


def products(rows: Floats, query: Floats) -> Floats:
    """Return (n,) the inner products of rows (n, dim) with a query (dim,), computed in the calling thread.

    Not numpy's `@`: its BLAS wakes other threads even for 3,000 rows, and on a busy machine waits 15 ms for them.
    """
    faiss = _faiss()
    result = np.empty(len(rows), np.float32)
    rows = np.ascontiguousarray(rows, np.float32)
    query = np.ascontiguousarray(query, np.float32)
    if rows.shape[1:] != query.shape:
        raise ValueError(f"rows of {rows.shape[1:]} and a query of {query.shape} have no product")
    if len(rows):
        swig = faiss.swig_ptr
        faiss.fvec_inner_products_ny(swig(result), swig(query), swig(rows), len(query), len(rows))
    return result


def _add(index: Any, rows: Floats, settings: VectorSettings, stopped: Callable[[], bool]) -> None:
    _faiss().omp_set_num_threads(settings.threads)
    # In parts, so that the copy in code units stays small, and a server that stops waits for half a second at most.
    for start in range(0, len(rows), _ADDED_AT_A_TIME):
        if stopped():
            raise BuildStopped
        index.add(np.rint(rows[start : start + _ADDED_AT_A_TIME] * _CODE_MAX))


def _faiss() -> Any:
    # Imported when it is needed: it takes 0.2 s, and its stubs do not know its own Python methods.
    import faiss

    return faiss
