"""The torch cross-encoder against the plainest code that gives the same score: transformers, one pair at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.cross_encoder import Pair
from podium_server.errors import BackendDown, ConfigInvalid
from tests.cross_encoders import tiny
from tests.cross_encoders.test_templates import AUTHORS, WORDS

try:
    from podium_server.backends.cross_encoders.sentence_transformers import SentenceTransformersCrossEncoder
except ConfigInvalid as missing:
    EXTRA_IS_MISSING = str(missing)
else:
    EXTRA_IS_MISSING = ""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

with_torch = pytest.mark.skipif(bool(EXTRA_IS_MISSING), reason=EXTRA_IS_MISSING or "the extra torch is there")

TOLERANCE = 1e-4
"""Of a logit in float32, for one pair in different batches: these random models' logits are around 1."""
HALF_TOLERANCE = 0.1
QUERY = "how long do fleas live"
PASSAGES = [
    "A flea can live up to a year, but its general lifespan depends on its living conditions.",
    "",
    "yes",
    "Given a query A and a passage B, determine whether the passage contains an answer. " * 3,
    "\ud800 \0 <|im_end|> [SEP] <bos> ünïcödé 漢字 🪲",
    "  blanks before,\n\n newlines within and blanks after  \n",
]
PLAIN = [PASSAGES[0], PASSAGES[2], PASSAGES[3], "ünïcödé 漢字 🪲", "two\nlines"]


@pytest.mark.skipif(not EXTRA_IS_MISSING, reason="the extra torch is there")
def test_without_the_extra_it_says_what_to_install() -> None:
    assert "pip install 'podium[torch]'" in EXTRA_IS_MISSING


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    makers: dict[str, Callable[[Path], str]] = {
        "classifier": tiny.bert,
        "qwen3-reranker": tiny.qwen,
        "mxbai-rerank-v2": lambda at: tiny.qwen(at, family="Qwen2"),
        "bge-reranker-v2-gemma": tiny.gemma,
        "absolute": lambda at: tiny.qwen(at, family="GPT2"),
    }
    made: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in made:
            made[name] = makers[name](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def encoders(folders: Callable[[str], str]) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def encoder(name: str) -> Any:
        if name not in made:
            template = {"classifier": None, "absolute": "qwen3-reranker"}.get(name, name)
            made[name] = load(folders(name), template=template, max_tokens=256)
        return made[name]

    return encoder


def load(folder: str, **more: Any) -> Any:
    return SentenceTransformersCrossEncoder(folder, device="cpu", **{"batch_tokens": 512, **more})


KINDS = ("classifier", "qwen3-reranker", "mxbai-rerank-v2", "bge-reranker-v2-gemma", "absolute")


def classified(folder: str, query: str, passage: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return float(model(**tokenizer(query, passage, return_tensors="pt")).logits[0, 0])


def asked(folder: str, name: str, query: str, passage: str) -> tuple[list[int], float]:
    """Return the authors' token ids for a pair, and their score."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    pieces = [piece.replace("why", query).replace("because", passage) for piece in AUTHORS[name]]
    if name == "qwen3-reranker":  # their code joins what is between prefix and suffix
        pieces = [pieces[0], pieces[1] + pieces[2], pieces[3]]
    said = [tokenizer.bos_token_id] if name == "bge-reranker-v2-gemma" else []
    said += [each for piece in pieces for each in ids(piece)]
    with torch.no_grad():
        logits = model(torch.tensor([said])).logits[0, -1]
    true, false = (None if word is None else ids(word)[0] for word in WORDS[name])
    return said, float(logits[true] - (0 if false is None else logits[false]))


@with_torch
def test_a_classifier_scores_as_transformers_does(folders: Any, encoders: Any) -> None:
    encoder = encoders("classifier")
    assert encoder.scale == "logit"
    scores = encoder.score(encoder.pairs(QUERY, PLAIN))
    expected = [classified(folders("classifier"), QUERY, passage) for passage in PLAIN]
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)
    assert np.ptp(expected) > 100 * TOLERANCE  # else it would prove nothing


@with_torch
def test_of_two_labels_the_difference_is_the_score(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path / "two", labels=2)
    encoder = load(folder, max_tokens=128)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        both = [model(**tokenizer(QUERY, passage, return_tensors="pt")).logits[0] for passage in PLAIN]
    expected = [float(second - first) for first, second in both]
    np.testing.assert_allclose(encoder.score(encoder.pairs(QUERY, PLAIN)), expected, atol=TOLERANCE)


@with_torch
@pytest.mark.parametrize("name", [*AUTHORS, "absolute"])
def test_a_language_model_is_asked_as_its_authors_do(name: str, folders: Any, encoders: Any) -> None:
    encoder = encoders(name)
    pairs = encoder.pairs(QUERY, PLAIN)
    template = "qwen3-reranker" if name == "absolute" else name
    expected = [asked(folders(name), template, QUERY, passage) for passage in PLAIN]
    assert [list(pair.input.ids) for pair in pairs] == [ids for ids, _ in expected]
    np.testing.assert_allclose(encoder.score(pairs), [score for _, score in expected], atol=TOLERANCE)
    assert np.ptp([score for _, score in expected]) > 100 * TOLERANCE


@with_torch
def test_the_sigmoid_is_applied_once_or_not_at_all(folders: Any, encoders: Any) -> None:
    folder, logits = folders("classifier"), encoders("classifier")
    library = CrossEncoder(folder, device="cpu")
    said = [[QUERY, passage] for passage in PLAIN]
    raw = library.predict(said, activation_fn=torch.nn.Identity())
    squashed = library.predict(said)  # its own sigmoid, since the model has one label
    probabilities = load(folder, scale="probability", max_tokens=256)
    assert probabilities.scale == "probability"
    assert probabilities.revision != logits.revision
    np.testing.assert_allclose(logits.score(logits.pairs(QUERY, PLAIN)), raw, atol=TOLERANCE)
    np.testing.assert_allclose(probabilities.score(probabilities.pairs(QUERY, PLAIN)), squashed, atol=TOLERANCE)
    assert np.abs(raw - squashed).max() > 0.1
    # A model that declares an activation gives the same logit as one that does not.
    for activation in (torch.nn.Identity(), torch.nn.Sigmoid()):
        at = f"{folder}-{type(activation).__name__}"
        CrossEncoder(folder, device="cpu", activation_fn=activation).save_pretrained(at)
        declared = load(at)
        np.testing.assert_allclose(declared.score(declared.pairs(QUERY, PLAIN)), raw, atol=TOLERANCE)


@with_torch
@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batched_shuffled_and_single_scores_are_equal(name: str, encoders: Any, data: st.DataObject) -> None:
    encoder = encoders(name)
    texts = data.draw(st.lists(st.sampled_from(PASSAGES) | st.text(max_size=400), min_size=1, max_size=5))
    query = data.draw(st.sampled_from([QUERY, ""]) | st.text(max_size=60))
    pairs = encoder.pairs(query, texts)
    together = encoder.score(pairs)
    assert together.shape == (len(texts),)
    assert together.dtype == np.float32
    np.testing.assert_allclose([encoder.score([pair])[0] for pair in pairs], together, atol=TOLERANCE, rtol=TOLERANCE)
    places = list(range(len(pairs)))
    random.Random(0).shuffle(places)
    shuffled = encoder.score([pairs[i] for i in places])
    np.testing.assert_allclose(shuffled, together[places], atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_allclose(encoder.score(encoder.pairs(query, texts[:1])), together[:1], atol=TOLERANCE)


@with_torch
@pytest.mark.parametrize("name", KINDS)
def test_what_does_not_fit_is_cut_from_the_passage_s_end(name: str, folders: Any, encoders: Any) -> None:
    whole, template = encoders(name), {"classifier": None, "absolute": "qwen3-reranker"}.get(name, name)
    short = load(folders(name), template=template, max_tokens=whole.pairs(QUERY, [""])[0].tokens + 40)
    passages = [" ".join(["flea"] * count) for count in (0, 1, 5, 39, 40, 41, 100)]
    full, cut = whole.pairs(QUERY, passages), short.pairs(QUERY, passages)
    suffix = len(common([pair.input.ids[::-1] for pair in full[2:]]))
    for before, after in zip(full, cut, strict=True):
        assert after.tokens == len(after.input.ids) == min(before.tokens, short.max_tokens)
        assert after.truncated == (before.tokens > short.max_tokens)
        assert not before.truncated
        tail = min(suffix, 1) if name == "classifier" else tail_of(name, whole)
        head = after.tokens - tail
        assert after.input.ids[:head] == before.input.ids[:head]
        assert after.input.ids[head:] == before.input.ids[len(before.input.ids) - tail :]
    assert any(pair.truncated for pair in cut)
    assert np.isfinite(short.score(cut)).all()


def common(rows: list[Any]) -> list[int]:
    columns = zip(*rows, strict=False)
    return [column[0] for column in columns if len(set(column)) == 1]


def tail_of(name: str, encoder: Any) -> int:
    """Return how many tokens of the template stand after a passage."""
    template = "qwen3-reranker" if name == "absolute" else name
    after = AUTHORS[template][AUTHORS[template].index(next(p for p in AUTHORS[template] if "because" in p)) + 1 :]
    tokenizer = encoder._encoder.tokenizer
    return sum(len(tokenizer(piece, add_special_tokens=False)["input_ids"]) for piece in after)


@with_torch
@pytest.mark.parametrize("name", KINDS)
def test_a_query_that_is_too_long_leaves_the_template_whole(name: str, encoders: Any) -> None:
    encoder = encoders(name)
    [pair, empty] = encoder.pairs("flea " * 5000, [PASSAGES[0], ""])
    assert pair.tokens <= encoder.max_tokens
    assert pair.truncated
    assert empty.truncated  # of its query
    usual = encoder.pairs(QUERY, [PASSAGES[0]])[0].input.ids
    tail = 1 if name == "classifier" else tail_of(name, encoder)
    assert pair.input.ids[-tail:] == usual[-tail:]
    assert pair.input.ids[0] == usual[0]
    assert np.isfinite(encoder.score([pair, empty])).all()


@with_torch
@pytest.mark.parametrize("name", KINDS)
def test_long_and_strange_texts_are_read_only_as_far_as_they_are_seen(name: str, encoders: Any) -> None:
    encoder = encoders(name)
    texts = ["flea " * 400_000, " " * 2_000_000 + "flea", "漢" * 100_000, "\ud800" * 5000]
    pairs = encoder.pairs(QUERY, texts)
    assert all(pair.truncated for pair in (pairs[0], pairs[1], pairs[2]))
    assert max(pair.tokens for pair in pairs) <= encoder.max_tokens
    assert encoder.pairs(QUERY, []) == []
    assert encoder.score([]).shape == (0,)
    special = encoder.pairs(QUERY, ["[SEP] <|im_end|> <bos> <|im_start|>system"])[0].input.ids
    plain = encoder.pairs(QUERY, ["x"])[0].input.ids
    specials = set(encoder._encoder.tokenizer.all_special_ids)
    assert sum(each in specials for each in special) == sum(each in specials for each in plain)


@with_torch
@pytest.mark.parametrize("name", ["classifier", "qwen3-reranker", "bge-reranker-v2-gemma"])
@given(text=st.text(max_size=200))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_are_places_in_the_text(name: str, encoders: Any, text: str) -> None:
    for said in (text, f"{text}\ud800 flea"):
        spans = encoders(name).spans(said)
        assert all(0 <= start < end <= len(said) for start, end in spans)
        assert spans == sorted(spans)
    assert encoders(name).spans("") == []
    whole = encoders(name).spans("flea year")
    assert (whole[0][0], whole[-1][1]) == (0, 9)


NATIVE_TEMPLATE = (
    "{%- for message in messages -%}{%- if message.role == 'query' -%}{%- set ns.query = message.content -%}"
    "{%- elif message.role == 'document' -%}{%- set ns.document = message.content -%}"
    "{%- elif message.role == 'system' -%}{%- set ns.instruction = message.content -%}{%- endif -%}{%- endfor -%}"
)


def native_template() -> str:
    prefix, query, _, suffix = AUTHORS["qwen3-reranker"]
    instruct = query.removeprefix("<Instruct>: ").partition("\n")[0]
    escaped = [each.replace("\n", "\\n").replace("'", "\\'") for each in (prefix, instruct, suffix)]
    return (
        f"{{%- set ns = namespace(query='', document='', instruction='{escaped[1]}') -%}}{NATIVE_TEMPLATE}"
        f"{{{{- '{escaped[0]}<Instruct>: ' ~ ns.instruction ~ '\\n<Query>: ' ~ ns.query ~ '\\n<Document>: ' ~ "
        f"ns.document ~ '{escaped[2]}' -}}}}"
    )


@with_torch
def test_a_converted_folder_is_asked_by_the_library_and_says_the_same(tmp_path: Path) -> None:
    from sentence_transformers.cross_encoder.modules import LogitScore, Transformer

    plain = tiny.qwen(tmp_path / "plain", chat_template=native_template())
    body = Transformer(plain, transformer_task="text-generation")
    words = [body.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")]
    converted = str(tmp_path / "converted")
    CrossEncoder(modules=[body, LogitScore(*words)], device="cpu").save_pretrained(converted)
    native = load(converted, max_tokens=220)
    ours = load(plain, template="qwen3-reranker", max_tokens=220)
    texts = [*PLAIN, "flea " * 300]
    for instruction in ("", "law only"):
        theirs, own = (each.pairs(QUERY, texts, instruction=instruction) for each in (native, ours))
        assert [pair.truncated for pair in theirs] == [pair.truncated for pair in own] == [False] * 5 + [True]
        assert [list(pair.input.ids) for pair in theirs] == [list(pair.input.ids) for pair in own]
        np.testing.assert_allclose(native.score(theirs), ours.score(own), atol=TOLERANCE)
    library = CrossEncoder(converted, device="cpu", max_length=220)
    raw = library.predict([[QUERY, text] for text in texts], activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(native.score(native.pairs(QUERY, texts)), raw, atol=TOLERANCE)
    singly = [native.score(native.pairs(QUERY, [text]))[0] for text in texts]
    np.testing.assert_allclose(singly, raw, atol=TOLERANCE)


@with_torch
def test_half_precision_is_near_and_another_revision(folders: Any, encoders: Any) -> None:
    full = encoders("classifier")
    for precision in ("bf16", "f16"):
        half = load(folders("classifier"), max_tokens=256, precision=precision)
        assert half.revision != full.revision
        scores = half.score(half.pairs(QUERY, PLAIN))
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, full.score(full.pairs(QUERY, PLAIN)), atol=HALF_TOLERANCE)


@with_torch
def test_equal_settings_have_equal_revisions(folders: Any, encoders: Any) -> None:
    full = encoders("classifier")
    assert load(folders("classifier"), max_tokens=256, name="other").revision == full.revision
    assert load(folders("classifier"), max_tokens=255).revision != full.revision


@with_torch
def test_capacity_is_measured(folders: Any) -> None:
    capacity = load(folders("classifier"), batch_tokens=None).capacity
    assert capacity.lanes == 1
    assert capacity.padded_tokens >= 128
    assert capacity.pairs >= 1
    assert capacity.tokens_per_s > 0
    assert load(folders("classifier"), batch_tokens=2048).capacity.padded_tokens == 2048


@with_torch
def test_a_broken_model_is_down_and_a_closed_one_too(folders: Any) -> None:
    encoder = load(folders("classifier"))
    pairs: list[Pair] = encoder.pairs(QUERY, PLAIN)
    with torch.no_grad():
        encoder._encoder.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(BackendDown, match="no number for 5 pairs"):
        encoder.score(pairs)
    with pytest.raises(BackendDown, match="failed on 1 pairs"):
        encoder.score([Pair(1, False, type(pairs[0].input)((10**6,)))])
    encoder.close()
    with pytest.raises(BackendDown, match="closed"):
        encoder.score(pairs)


@with_torch
def test_what_cannot_be_served_says_why(folders: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot load"):
        load(str(tmp_path / "none"))
    with pytest.raises(ConfigInvalid, match="BertModel: it has no trained head"):
        load(tiny.bert(tmp_path / "body", head=False))
    with pytest.raises(ConfigInvalid, match="gives 3 numbers a pair"):
        load(tiny.bert(tmp_path / "three", labels=3))
    with pytest.raises(ConfigInvalid, match=r"without the files .* say its template \(qwen3-reranker"):
        load(folders("qwen3-reranker"))
    with pytest.raises(ConfigInvalid, match="did you mean 'qwen3-reranker'"):
        load(folders("qwen3-reranker"), template="qwen-reranker")
    with pytest.raises(ConfigInvalid, match=r"max_tokens is 30; beside the template"):
        load(folders("qwen3-reranker"), template="qwen3-reranker", max_tokens=30)
    with pytest.raises(ConfigInvalid, match=r"max_tokens is 8; .* must be 35 or more"):
        load(folders("classifier"), max_tokens=8)
    for wrong in ({"precision": "int3"}, {"scale": "points"}, {"batch_tokens": 0}):
        with pytest.raises(ConfigInvalid, match=str(*wrong.values())):
            load(folders("classifier"), **wrong)
    named = tiny.qwen(tmp_path / "Qwen3-Reranker-0.6B")
    assert (
        load(named).pairs(QUERY, ["x"])[0].input.ids[0]
        == load(named, template="qwen3-reranker").pairs(QUERY, ["x"])[0].input.ids[0]
    )
