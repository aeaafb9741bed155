"""Damage to JSON: as values, by what stands in the schema and what does not, and then as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz.victim import MARK

# Text that `json.dumps` would not write: it stands in a body as it is.
_RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "0" * 40, "9" * 400, "1.0e-400", '"\\ud83d"', '"\\udc00x"')
_RAW += ('"\\u0000"', "01", "+1", ".5", "0x1", "'a'", '"\t"', "tru", "[1,]", "{,}", '{"a":1,"a":2}', "/* */1", '"\\x"')
_LEAVES: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2**31, -(2**31), 2**53, 2**63, -(2**70), 0.5, -0.5, 1e308, 5e-324, "", " ", "a"),
    *("\0", "\ud83d", "🍕", "\u202e", "A" * 3_000, "1s", "-1s", "plain", "judged", "vectors", "books", "scratch"),
    *("rerank-v3.5", "NaN", "-Infinity", "1.5", "type.googleapis.com/x", [], {}, [[]], [{}], {"": ""}, [None] * 50),
)
_KEYS = (
    *("query", "documents", "texts", "model", "top_n", "top_k", "return_documents", "rank_fields", "text", "image"),
    *("max_tokens_per_doc", "truncation", "truncate", "truncation_direction", "raw_scores", "return_text", "content"),
    *("truncate_prompt_tokens", "use_activation", "text_1", "text_2", "queries", "items", "instruction", "type"),
    *("request", "pipeline", "inline", "stages", "strategy", "budget", "softDeadline", "fields", "itemId", "seed"),
    *("filter", "options", "metadata", "contenders", "overlapAt", "sketch", "pageSize", "pageToken", "name"),
    *("collection", "ids", "@type", "", "\0", "\ud800", "__proto__", "a.b", "A" * 300),
)
_SPLICE = "\ue000splice\ue000"

_DIALECT = {"model": "plain", "query": f"{MARK} query", "documents": [f"{MARK} a", {"text": f"{MARK} b"}], "top_n": 2}
_TEI = {"query": f"{MARK} query", "texts": [f"{MARK} a", f"{MARK} b"], "raw_scores": False, "return_text": True}
_SCORE = {"model": "vectors", "text_1": f"{MARK} a", "text_2": [f"{MARK} b", f"{MARK} c"]}
_DOCUMENTS = [{"id": f"d{i}", "text": f"{MARK} {i}"} for i in range(3)]
_RERANK = {"query": f"{MARK} query", "documents": _DOCUMENTS, "pipeline": "plain", "topN": 2}
_FULL = _RERANK | {"budget": {"softDeadline": "0.8s", "maxCalls": "9"}, "explain": "EXPLAIN_LEVEL_ROUNDS", "seed": "7"}
_FULL |= {"documents": [*_DOCUMENTS, {"fields": {"fields": [{"name": "title", "text": MARK}]}, "metadata": {"a": [1]}}]}
_INLINE = {"stages": [{"strategy": "pointwise", "model": "minilm", "options": {"scoring": "cosine"}, "keep": 2}]}
_NATIVE: dict[str, list[Any]] = {
    "rerank": [_RERANK, _FULL, {**_RERANK, "pipeline": "judged"}, {"query": "q", "inline": _INLINE}],
    "streamRerank": [{"request": _RERANK, "minInterval": "0.01s"}, {"request": _FULL}],
    "batchRerank": [[{"itemId": "a", "request": _RERANK}, {"itemId": "b", "request": _FULL}]],
    "estimate": [{"request": _RERANK}, {"request": {"pipeline": "judged"}, "sketch": {"candidates": 20}}],
    "compare": [{"request": _RERANK, "contenders": [{"pipeline": "plain"}, {"label": "b", "inline": _INLINE}]}],
    "search": [
        {"collection": "books", "query": "text", "topN": 3, "includeContent": True},
        {
            "collection": "books",
            "query": "text",
            "filter": {
                "allOf": {"filters": [{"equality": {"key": "kind", "value": "a"}}, {"existence": {"key": "x"}}]}
            },
            "retrieverWeights": {"lexical": 1.0},
        },
    ],
    "createCollection": [{"collection": {"name": "scratch", "encoder": "minilm"}}],
    "upsertDocuments": [[{"collection": "scratch", "documents": _DOCUMENTS}]],
    "getDocuments": [{"collection": "books", "ids": ["b0", "zz"]}],
    "deleteDocuments": [{"collection": "scratch", "ids": ["d0"]}],
    "deleteCollection": [{"name": "chunked"}],
}


def good(path: str) -> list[Any]:
    """Return bodies that a path takes."""
    name = path.rpartition("/")[2]
    if path.startswith("/podium/"):
        return _NATIVE.get(name, [{"name": "books"}, {}, {"pageSize": 1}])
    if "score" in name:
        return [_SCORE, {"queries": f"{MARK} a", "items": [f"{MARK} b"], "model": "vectors"}]
    if "/tei" in path:
        return [_TEI]
    voyage = {**_DIALECT, "documents": [f"{MARK} a", f"{MARK} b"], "top_k": 1}
    voyage.pop("top_n")
    if "voyage" in path:
        return [voyage]
    shared = [_TEI] if path == "/rerank" else []
    return [_DIALECT, {**_DIALECT, "model": "judged", "return_documents": True}, *shared, voyage]


def damaged(value: Any, chance: Random) -> bytes:
    """Return the bytes of a body with something wrong, or different, in it."""
    spliced: list[str] = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = _somewhere(value, chance, spliced)
    # With lone surrogates as JavaScript writes them, by escapes; or as they are, where there are none.
    text = json.dumps(value, ensure_ascii=chance.random() < 0.7)
    for raw in spliced:
        text = text.replace(json.dumps(_SPLICE), raw, 1).replace(f'"{_SPLICE}"', raw, 1)
    data = text.encode("utf-8", "surrogatepass")
    return _as_text(data, chance) if chance.random() < 0.25 else data


def _somewhere(value: Any, chance: Random, spliced: list[str]) -> Any:
    inside = isinstance(value, (dict, list)) and value and chance.random() < 0.75
    if inside and isinstance(value, dict):
        made = dict(value)
        key = chance.choice(list(made))
        match chance.randrange(6):
            case 0:
                del made[key]
            case 1:
                made[chance.choice(_KEYS)] = made.pop(key)
            case 2:
                made[chance.choice(_KEYS)] = _leaf(chance, spliced)
            case _:
                made[key] = _somewhere(made[key], chance, spliced)
        return made
    if inside:
        listed = list(value)
        place = chance.randrange(len(listed))
        match chance.randrange(5):
            case 0:
                del listed[place]
            case 1:
                listed[place : place + 1] = [listed[place]] * chance.choice((2, 3, 40))
            case _:
                listed[place] = _somewhere(listed[place], chance, spliced)
        return listed
    match chance.randrange(8):
        case 0:
            return _deep(value, chance)
        case 1:
            return [value]
        case 2:
            return {chance.choice(_KEYS): value}
        case _:
            return _leaf(chance, spliced)


def _leaf(chance: Random, spliced: list[str]) -> Any:
    if chance.random() < 0.3:
        spliced.append(chance.choice(_RAW))
        return _SPLICE
    return chance.choice(_LEAVES)


def _deep(value: Any, chance: Random) -> Any:
    key = chance.choice(("", "stages", "a"))
    for _ in range(chance.choice((5, 60, 70, 300))):
        value = [value] if chance.random() < 0.5 else {key: value}
    return value


def _as_text(data: bytes, chance: Random) -> bytes:
    place = chance.randint(0, len(data))
    match chance.randrange(9):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + chance.randbytes(chance.choice((1, 3))) + data[place:]
        case 2:
            return data[:place] + data[place + 1 :]
        case 3:
            return b"\xef\xbb\xbf" + data
        case 4:
            return data + chance.choice((b"\n" + data, b"}", b"\0", b"  ", b"x"))
        case 5:
            return chance.choice((b"[", b'{"a":')) * chance.choice((50, 5_000, 50_000))
        case 6:
            return data.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32", "utf-7")))
        case 7:
            return chance.randbytes(chance.choice((0, 1, 30)))
        case _:
            return data.replace(b'"', b"'")
