from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from podium_server.backends.encoders.openvino import OpenVinoEncoder
from podium_server.errors import ConfigInvalid

try:
    from podium_server.backends.encoders.sentence_transformers import SentenceTransformersEncoder
except ConfigInvalid as missing:
    EXTRA_IS_MISSING = str(missing)
else:
    EXTRA_IS_MISSING = ""

with_torch = pytest.mark.skipif(bool(EXTRA_IS_MISSING), reason=EXTRA_IS_MISSING or "the extra torch is there")


@pytest.mark.skipif(not EXTRA_IS_MISSING, reason="the extra torch is there")
def test_without_the_extra_it_says_what_to_install() -> None:
    assert "pip install 'podium[torch]'" in EXTRA_IS_MISSING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a real model's folder (PODIUM_MINILM_FOLDER), or that of a tiny random one."""
    given = os.environ.get("PODIUM_MINILM_FOLDER")
    if given:
        return given
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # type: ignore[import-not-found]

    from podium_server.backends.openvino.sources import resolve

    at: Path = tmp_path_factory.mktemp("tiny")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(resolve("all-minilm-l6-v2", kind="encoder") / "tokenizer.json"),
        unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]",
        model_max_length=64,
    )  # fmt: skip
    tokenizer.save_pretrained(at / "bert")
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(at / "bert")
    body = Transformer(str(at / "bert"), max_seq_length=64)
    SentenceTransformer(modules=[body, Pooling(32)]).save(str(at / "whole"))
    return str(at / "whole")


TEXTS = ["how long do fleas live", "", "\ud800 \0", "dog " * 1000, "A flea can live up to a year."]


@with_torch
def test_it_keeps_the_contract(folder: str) -> None:
    encoder = SentenceTransformersEncoder(folder, name="st", device="cpu", max_tokens=32)
    got = encoder.encode_documents(TEXTS, token_vectors=True)
    assert got.token_vectors is not None
    assert got.vectors.shape == (len(TEXTS), encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(got.vectors, axis=1), 1, atol=1e-5)
    assert got.truncated == (False, False, False, True, False)
    assert got.tokens[3] == encoder.max_tokens == 32
    assert [len(each) for each in got.token_vectors] == [count - 2 for count in got.tokens]
    np.testing.assert_allclose(encoder.encode_documents(TEXTS).vectors, got.vectors, atol=1e-4)
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode_queries([text]).vectors[0], got.vectors[i], atol=1e-4)
    assert encoder.encode_documents([], token_vectors=True).vectors.shape == (0, encoder.dim)
    prefixed = SentenceTransformersEncoder(folder, device="cpu", query_prefix="query: ")
    one = prefixed.encode_queries(TEXTS[:1], token_vectors=True)
    assert one.token_vectors is not None
    assert len(one.token_vectors[0]) == one.tokens[0] - 4
    np.testing.assert_allclose(one.vectors, encoder.encode_queries(["query: " + TEXTS[0]]).vectors, atol=1e-4)
    assert prefixed.revision != encoder.revision == SentenceTransformersEncoder(folder, max_tokens=32).revision
    if encoder.dim == 384:
        ours = OpenVinoEncoder(max_tokens=32).encode_documents(TEXTS)
        both = np.einsum("nd,nd->n", ours.vectors, got.vectors)
        assert both[[0, 4]].min() > 0.99  # prose; the others are nothing that ranges of int8 are calibrated on
        assert ours.tokens == got.tokens


@with_torch
def test_queries_and_documents_side_by_side_get_their_own(folder: str) -> None:
    """Both have a thread of their own, and one tokenizer, which is told anew at each call whether to cut and to pad."""
    encoder = SentenceTransformersEncoder(folder, device="cpu", max_tokens=32)
    want = encoder.encode_documents(TEXTS).vectors

    def work(begin: int) -> float:
        texts = TEXTS[begin:] + TEXTS[:begin]
        moved = np.roll(want, -begin, axis=0)
        return max(float(np.abs(encoder.encode_documents(texts).vectors - moved).max()) for _ in range(20))

    with ThreadPoolExecutor(4) as threads:
        assert max(threads.map(work, range(4))) < 1e-4


@with_torch
def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot load"):
        SentenceTransformersEncoder(str(tmp_path / "none"))
