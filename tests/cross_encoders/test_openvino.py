from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.cross_encoder import PASSAGE_TOKENS_MIN, Capacity, Pair
from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder
from podium_server.backends.openvino.runtime import Precision, native_precision
from podium_server.backends.openvino.tokens import read_tokenizer
from podium_server.errors import BackendDown, ConfigInvalid
from tests.cross_encoders import numpy_models as tiny

FAMILIES = get_args(tiny.Family)
SMALL = Capacity(lanes=2, padded_tokens=512, pairs=8, tokens_per_s=1.0)

# What batching and padding may change: the order of sums, by a part of the score (bf16 has three digits, and a score
# of these models goes to 8 either way).
TOLERANCE: dict[Precision, float] = {"f32": 1e-4, "bf16": 0.1}

PRECISIONS: list[Precision] = ["f32", "bf16"] if native_precision("auto") == "bf16" else ["f32"]
texts = st.lists(
    st.sampled_from([*tiny.WORDS, "[SEP]", "</s>", "Zürich", "東京", "\ud800", "x" * 30]), max_size=50
).map(" ".join) | st.text(st.characters(), max_size=40)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("cross-encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PODIUM_CACHE", str(root / "cache"))
        yield {family: tiny.cross_encoder(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[tuple[str, Precision], OpenVinoCrossEncoder]:
    return {
        (family, precision): OpenVinoCrossEncoder(str(folder), precision=precision, threads=2, capacity=SMALL)
        for family, folder in folders.items()
        for precision in PRECISIONS
    }


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(query=texts, passages=st.lists(texts, min_size=1, max_size=6))
def test_pairs_are_those_of_the_tokenizer_itself(
    models: dict[tuple[str, Precision], OpenVinoCrossEncoder],
    folders: dict[str, Path],
    family: str,
    query: str,
    passages: list[str],
) -> None:
    from podium_server.backends.encoders.encoder import well_formed

    model = models[family, "f32"]
    library = read_tokenizer(folders[family] / "tokenizer.json")
    asked = len(library.encode(well_formed(query), add_special_tokens=False).ids)
    for passage, pair in zip(passages, model.pairs(query, passages), strict=True):
        whole = library.encode(well_formed(query), well_formed(passage))
        assert pair.truncated == (len(whole.ids) > model.max_tokens)
        assert pair.tokens == min(len(whole.ids), model.max_tokens) == len(pair.input.ids)
        room_for_passage = model.max_tokens - (len(whole.ids) - whole.sequence_ids.count(1))
        if pair.truncated and room_for_passage < PASSAGE_TOKENS_MIN:
            # The library refuses to cut the query; ours keeps a passage of 16 tokens, or as short as it is.
            assert asked > model.max_tokens - PASSAGE_TOKENS_MIN - model._template.special
            continue
        library.enable_truncation(model.max_tokens, strategy="only_second")
        want = library.encode(well_formed(query), well_formed(passage))
        library.no_truncation()
        assert pair.input.ids.tolist() == want.ids
        assert pair.input.types.tolist() == want.type_ids


def test_a_query_too_long_leaves_room_for_the_passage(
    models: dict[tuple[str, Precision], OpenVinoCrossEncoder],
) -> None:
    model = models["bert", "f32"]
    whole, none, short = model.pairs("the " * 500, ["paris " * 500, "", "paris " * 5])
    paris, the = tiny.tokenizer("bert").token_to_id("paris"), tiny.tokenizer("bert").token_to_id("the")
    assert [int((pair.input.ids == paris).sum()) for pair in (whole, none, short)] == [PASSAGE_TOKENS_MIN, 0, 5]
    assert [int((pair.input.ids == the).sum()) for pair in (whole, none, short)] == [77, 93, 88]
    assert all(pair.truncated and pair.tokens == 96 for pair in (whole, none, short))


def test_truncation_is_counted_at_the_very_token(models: dict[tuple[str, Precision], OpenVinoCrossEncoder]) -> None:
    model = models["bert", "f32"]
    room = model.max_tokens - 3 - 2
    fits, not_quite, far = model.pairs("how long", ["flea " * room, "flea " * (room + 1), "flea " * 100_000])
    assert [pair.tokens for pair in (fits, not_quite, far)] == [96, 96, 96]
    assert [pair.truncated for pair in (fits, not_quite, far)] == [False, True, True]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(query=texts, passages=st.lists(texts, min_size=1, max_size=12), data=st.data())
def test_a_batch_gives_what_each_pair_gives_alone_in_any_order(
    models: dict[tuple[str, Precision], OpenVinoCrossEncoder],
    family: str,
    precision: Precision,
    query: str,
    passages: list[str],
    data: st.DataObject,
) -> None:
    model = models[family, precision]
    pairs = model.pairs(query, passages)
    order = data.draw(st.permutations(range(len(pairs))))
    together = model.score([pairs[i] for i in order])
    assert together.dtype == np.float32
    for place, i in enumerate(order):
        [alone] = model.score([pairs[i]])
        assert abs(alone - together[place]) <= TOLERANCE[precision] * max(1.0, abs(alone))


def test_bfloat16_stays_near_float32(models: dict[tuple[str, Precision], OpenVinoCrossEncoder]) -> None:
    if "bf16" not in PRECISIONS:
        pytest.skip("this processor computes no bfloat16")
    chance = np.random.default_rng(0)
    passages = [" ".join(chance.choice(tiny.WORDS, chance.integers(1, 60))) for _ in range(40)]
    for family in FAMILIES:
        exact, rounded = (
            models[family, precision].score(models[family, precision].pairs("how long do fleas live", passages))
            for precision in PRECISIONS
        )
        assert exact.std() > 0.1
        # The weights are random and large: a trained model's are kinder (0.03 of the spread at most).
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
        # Rounded to a bfloat16 at the end, forty scores would share a few values.
        assert len(set(rounded.tolist())) > 35


def test_callers_side_by_side_get_their_own(models: dict[tuple[str, Precision], OpenVinoCrossEncoder]) -> None:
    model = models["bert", "f32"]
    pairs = model.pairs("how long do fleas live", [" ".join(tiny.WORDS[:i]) for i in range(16)])
    want = model.score(pairs)
    wrong: list[float] = []

    def work(offset: int) -> None:
        for _ in range(10):
            got = model.score(pairs[offset:] + pairs[:offset])
            wrong.append(float(np.abs(got - np.roll(want, -offset)).max()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]  # more than there are lanes
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrong) == 50
    assert max(wrong) <= TOLERANCE["f32"]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_sentence_transformers(
    models: dict[tuple[str, Precision], OpenVinoCrossEncoder], folders: dict[str, Path], family: str
) -> None:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    library = pytest.importorskip("sentence_transformers", reason="the extra torch is not installed")
    theirs = library.CrossEncoder(str(folders[family]), device="cpu")
    chance = np.random.default_rng(1)
    passages = [" ".join(chance.choice(tiny.WORDS, chance.integers(0, 120))) for _ in range(20)]
    query = "how long do fleas live?"
    want = theirs.predict([(query, each) for each in passages], activation_fn=torch.nn.Identity())
    ours = models[family, "f32"]
    np.testing.assert_allclose(ours.score(ours.pairs(query, passages)), want, atol=TOLERANCE["f32"])


def test_two_labels_become_the_difference_of_their_logits(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = tiny.cross_encoder(tmp_path / "two", labels=2, seed=3)
    first, second = tmp_path / "first", tmp_path / "second"
    from podium_server.backends.openvino.safetensors import read_tensors

    whole = read_tensors(folder / "model.safetensors")
    for place, one in enumerate((first, second)):
        shutil.copytree(folder, one)
        part = {name: tensor[place : place + 1] for name, tensor in whole.items() if name.startswith("classifier.")}
        tiny.save_tensors(one / "model.safetensors", whole | part)
    a, b, both = (_scores(str(each), "how long", ["a flea", "paris"]) for each in (first, second, folder))
    np.testing.assert_allclose(both, b - a, atol=1e-5)


def test_more_labels_than_two_are_no_score(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigInvalid, match="3 labels"):
        OpenVinoCrossEncoder(str(tiny.cross_encoder(tmp_path / "three", labels=3)), capacity=SMALL)


def test_an_encoder_is_no_cross_encoder() -> None:
    with pytest.raises(ConfigInvalid, match="no output of one score a pair"):
        OpenVinoCrossEncoder("all-minilm-l6-v2", capacity=SMALL)


def test_scale_is_read_off_the_graph_and_the_card_decides(tmp_path: Path, folders: dict[str, Path]) -> None:
    import openvino
    from openvino import opset15 as ops

    from podium_server.backends.openvino.convert import convert

    plain, probable = tmp_path / "plain", tmp_path / "probable"
    convert(folders["bert"], plain, kind="cross-encoder")
    graph = openvino.Core().read_model(plain / "openvino_model.xml")
    end = ops.sigmoid(graph.outputs[0].get_node().input_value(0))
    end.output(0).set_names({"probability"})
    shutil.copytree(plain, probable)
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (probable / name).unlink()
    openvino.save_model(
        openvino.Model([ops.result(end)], graph.get_parameters()), probable / "openvino_model.xml", False
    )
    logit = OpenVinoCrossEncoder(str(plain), capacity=SMALL, precision="f32")
    probability = OpenVinoCrossEncoder(str(probable), capacity=SMALL, precision="f32")
    assert (logit.scale, probability.scale) == ("logit", "probability")
    raw = logit.score(logit.pairs("how long", ["a flea", "paris"]))
    sure = probability.score(probability.pairs("how long", ["a flea", "paris"]))
    np.testing.assert_allclose(sure, 1 / (1 + np.exp(-raw)), atol=1e-5)
    (plain / "model.toml").write_text('max_tokens = 32\nscore_scale = "probability"')
    told = OpenVinoCrossEncoder(str(plain), capacity=SMALL)
    assert (told.scale, told.max_tokens) == ("probability", 32)
    assert told.revision != logit.revision
    (plain / "model.toml").write_text('max_tokens = 32\nscore_scale = "percent"')
    with pytest.raises(ConfigInvalid, match="'percent'"):
        OpenVinoCrossEncoder(str(plain), capacity=SMALL)


def test_capacity_is_measured(folders: dict[str, Path]) -> None:
    measured = OpenVinoCrossEncoder(str(folders["bert"]), threads=2).capacity
    assert measured.lanes == 2
    assert measured.padded_tokens in [count * 96 for count in (1, 4, 8, 16)]
    assert measured.tokens_per_s > 0


def test_nothing_to_score_and_a_closed_model(folders: dict[str, Path]) -> None:
    model = OpenVinoCrossEncoder(str(folders["bert"]), name="mine", max_tokens=20, threads=1, capacity=SMALL)
    assert (model.name, model.max_tokens, model.scale) == ("mine", 20, "logit")
    assert model.pairs("how long", []) == []
    assert model.score([]).shape == (0,)
    pairs: list[Pair] = model.pairs("how long", ["a flea"], instruction="not looked at")
    model.close()
    with pytest.raises(BackendDown, match="closed"):
        model.score(pairs)


@given(text=texts)
@settings(max_examples=40, deadline=None)
def test_spans_are_ascending_places_of_the_text(
    models: dict[tuple[str, Precision], OpenVinoCrossEncoder], text: str
) -> None:
    spans = models["bert", "f32"].spans(text.encode(errors="replace").decode())
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)


def _scores(folder: str, query: str, passages: list[str]) -> np.ndarray:
    model = OpenVinoCrossEncoder(folder, precision="f32", threads=1, capacity=SMALL)
    return model.score(model.pairs(query, passages))
