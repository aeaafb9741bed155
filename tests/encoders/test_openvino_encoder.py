from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podium_server.backends.encoders.encoder import beginning, unit, well_formed
from podium_server.backends.encoders.maxsim import maxsim
from podium_server.backends.encoders.openvino import OpenVinoEncoder
from podium_server.backends.openvino.cards import read_card
from podium_server.backends.openvino.sources import resolve
from podium_server.errors import BackendDown, ConfigInvalid

# What batching may change: the order of sums in bfloat16 and int8, which is not the same for every shape.
SAME_COSINE = 0.995

SENTENCE = "the city of Zürich 東京 lies at a lake, and (mostly) quick foxes [SEP] jump over 3.14 lazy dogś 😀"
WORDS = SENTENCE.split()
texts_of_words = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(texts_of_words | st.text(max_size=40), min_size=1, max_size=20), data=st.data())
def test_a_batch_gives_what_each_text_gives_alone_in_any_order(
    minilm: OpenVinoEncoder, texts: list[str], data: st.DataObject
) -> None:
    together = minilm.encode_documents(texts, token_vectors=True)
    assert together.token_vectors is not None
    order = data.draw(st.permutations(range(len(texts))))
    shuffled = minilm.encode_documents([texts[i] for i in order])
    assert (np.einsum("nd,nd->n", shuffled.vectors, together.vectors[order]) > SAME_COSINE).all()
    for i, text in enumerate(texts[:5]):
        alone = minilm.encode_queries([text], token_vectors=True)
        assert alone.token_vectors is not None
        assert alone.vectors[0] @ together.vectors[i] > SAME_COSINE
        assert alone.tokens[0] == together.tokens[i]
        assert alone.token_vectors[0].shape == together.token_vectors[i].shape == (together.tokens[i] - 2, minilm.dim)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(), max_size=60))
def test_any_string_has_a_vector_of_length_one(minilm: OpenVinoEncoder, text: str) -> None:
    encoded = minilm.encode_queries([text], token_vectors=True)
    assert encoded.token_vectors is not None
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(encoded.token_vectors[0], axis=1), 1, atol=1e-5)


def test_related_texts_stand_nearer(minilm: OpenVinoEncoder) -> None:
    query = minilm.encode_queries(["how long do fleas live"], token_vectors=True)
    docs = minilm.encode_documents(
        ["Paris is the capital of France.", "A flea can live up to a year.", ""], token_vectors=True
    )
    cosines = docs.vectors @ query.vectors[0]
    assert int(cosines.argmax()) == 1
    assert query.token_vectors is not None
    assert docs.token_vectors is not None
    assert np.argsort(-maxsim(query.token_vectors[0], docs.token_vectors)).tolist() == [1, 0, 2]


def test_nothing_and_the_empty_text(minilm: OpenVinoEncoder) -> None:
    nothing = minilm.encode_documents([], token_vectors=True)
    assert nothing.vectors.shape == (0, 384)
    assert nothing.token_vectors == ()
    empty = minilm.encode_queries(["", "\0", "\ud800"], token_vectors=True)
    assert empty.tokens[:2] == (2, 2)
    assert empty.token_vectors is not None
    assert empty.token_vectors[0].shape == (0, 384)
    assert empty.vectors[2] @ minilm.encode_queries(["\ufffd"]).vectors[0] > SAME_COSINE


def test_a_special_token_in_a_text_is_letters(minilm: OpenVinoEncoder) -> None:
    said = minilm.encode_queries(["a [SEP] b"], token_vectors=True)
    assert said.tokens[0] > 5
    assert said.token_vectors is not None
    assert len(said.token_vectors[0]) == said.tokens[0] - 2


@pytest.mark.parametrize(
    "text",
    [
        "word " * 1_000_000,
        " " * 5_000_000 + "end",
        "x" * 5_000_000,
        "東" * 5_000_000,
        "\0" * 5_000_000,
        "ab. " * 1_250_000,
    ],
    ids=["words", "blanks", "one word", "no blanks", "NUL", "sentences"],
)
def test_five_megabytes_are_quick_and_known_to_be_cut(minilm: OpenVinoEncoder, text: str) -> None:
    began = time.process_time()
    encoded = minilm.encode_documents([text])
    assert time.process_time() - began < 2.0
    assert encoded.truncated == (True,)
    assert encoded.tokens[0] <= minilm.max_tokens


@pytest.mark.parametrize("blank", [" ", " " * 30, "\n\n" + " " * 100])
def test_cutting_characters_first_does_not_change_the_tokens(minilm: OpenVinoEncoder, blank: str) -> None:
    text = blank.join(WORDS[i % len(WORDS)] + str(i) for i in range(3000))
    ours = minilm._tokens([text], "")[0]
    whole = minilm._tokens._tokenizer.encode(text)
    assert ours.ids == whole.ids
    assert ours.truncated


def test_truncation_is_counted_at_the_very_token(minilm: OpenVinoEncoder) -> None:
    encoded = minilm.encode_documents(["dog " * (minilm.max_tokens - 2), "dog " * (minilm.max_tokens - 1)])
    assert encoded.tokens == (256, 256)
    assert encoded.truncated == (False, True)
    assert encoded.prompt_tokens == 512


def test_prefixes_change_the_vector_and_not_the_token_vectors_that_are_returned() -> None:
    plain = OpenVinoEncoder(threads=1)
    prefixed = OpenVinoEncoder(query_prefix="query: ", document_prefix="passage: ", max_tokens=16, threads=1)
    assert plain.revision != prefixed.revision
    assert plain.revision == OpenVinoEncoder(name="another", threads=1).revision
    encoded = prefixed.encode_queries(["how long do fleas live"], token_vectors=True)
    bare = plain.encode_queries(["how long do fleas live"], token_vectors=True)
    assert encoded.token_vectors is not None
    assert bare.token_vectors is not None
    assert encoded.tokens[0] == bare.tokens[0] + 2
    assert encoded.token_vectors[0].shape == bare.token_vectors[0].shape
    assert encoded.vectors[0] @ plain.encode_queries(["query: how long do fleas live"]).vectors[0] > SAME_COSINE
    assert prefixed.encode_documents(["dog " * 100]).tokens == (16,)


def test_callers_side_by_side_get_their_own(minilm: OpenVinoEncoder) -> None:
    texts = [" ".join(WORDS[: i % len(WORDS)]) + f" {i}" for i in range(60)]
    want = minilm.encode_documents(texts).vectors
    lowest: list[float] = []

    def work(offset: int) -> None:
        mine = texts[offset:] + texts[:offset]
        got = minilm.encode_documents(mine).vectors
        one = minilm.encode_queries(mine[:1]).vectors[0]
        right = np.roll(want, -offset, axis=0)
        lowest.append(min(float(np.einsum("nd,nd->n", got, right).min()), float(one @ right[0])))

    threads = [threading.Thread(target=work, args=(i * 7,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(lowest) == 6
    assert min(lowest) > SAME_COSINE


def test_a_closed_encoder_says_so() -> None:
    encoder = OpenVinoEncoder(threads=1)
    encoder.close()
    with pytest.raises(BackendDown, match="closed"):
        encoder.encode_queries(["a"])


def test_a_model_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"all-minilm-l6-v2.*openvino_model\.xml"):
        OpenVinoEncoder(str(tmp_path))


def test_a_folder_without_a_card_is_read_as_sentence_transformers_writes_it(tmp_path: Path) -> None:
    shipped = resolve("all-minilm-l6-v2", kind="encoder")
    for name in ("openvino_model.xml", "openvino_model.bin", "tokenizer.json"):
        shutil.copy(shipped / name, tmp_path / name)
    with pytest.raises(ConfigInvalid, match="max_tokens"):
        OpenVinoEncoder(str(tmp_path))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: ", "passage": "p: "}}')
    card = read_card(tmp_path)
    assert (card.max_tokens, card.pooling, card.query_prefix, card.document_prefix) == (32, "cls", "q: ", "p: ")
    encoder = OpenVinoEncoder(str(tmp_path), threads=1)
    assert encoder.encode_documents(["dog " * 100]).tokens == (32,)
    (tmp_path / "model.toml").write_text('max_tokens = 16\npooling = "max"')
    with pytest.raises(ConfigInvalid, match="'max'"):
        read_card(tmp_path)
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    (tmp_path / "model.toml").write_text("max_tokens = 16")
    with pytest.raises(ConfigInvalid, match="OpenVINO cannot load"):
        OpenVinoEncoder(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigInvalid, match="not a tokenizer"):
        OpenVinoEncoder(str(tmp_path))


@given(st.text(st.characters(), max_size=20))
def test_well_formed_changes_only_what_is_not(text: str) -> None:
    fixed = well_formed(text)
    fixed.encode()
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert fixed == text


def test_surrogates_become_what_they_stand_for() -> None:
    assert well_formed("a\ud83d\ude00b") == "a😀b"
    assert well_formed("a\ud83db") == "a\ufffdb"


@given(st.text(" ab", max_size=400), st.integers(1, 300))
def test_the_beginning_is_a_prefix_and_ends_between_words(text: str, characters: int) -> None:
    head = beginning(text, characters)
    assert text.startswith(head)
    assert len(head) <= max(characters, len(text) if len(text) <= characters else 0)
    if " " in text[max(0, characters - 256) : characters] and len(head) < len(text):
        assert text[len(head)] == " "


def test_unit_leaves_what_has_no_direction() -> None:
    np.testing.assert_allclose(
        unit(np.array([[3, 4], [0, 0]], np.float32)), np.array([[0.6, 0.8], [0, 0]], np.float32), atol=1e-6
    )
