"""Where models come from: converted once, kept by the hash of what they are made of, made anew when a byte changes."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from podium_server.backends.cross_encoders.openvino import Capacity, OpenVinoCrossEncoder
from podium_server.backends.encoders.encoder import unit
from podium_server.backends.encoders.openvino import OpenVinoEncoder
from podium_server.backends.openvino import sources
from podium_server.backends.openvino.convert import convert
from podium_server.backends.openvino.safetensors import read_tensors
from podium_server.backends.openvino.sources import kind_of, resolve
from podium_server.errors import ConfigInvalid
from tests.cross_encoders import numpy_models as tiny

SMALL = Capacity(lanes=1, padded_tokens=512, pairs=8, tokens_per_s=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_a_model_is_converted_once_and_anew_when_a_byte_changes(tmp_path: Path, cache: Path) -> None:
    source = tiny.cross_encoder(tmp_path / "mine")
    first = resolve(str(source), kind="cross-encoder")
    assert first.parent == cache
    assert sorted(file.name for file in first.iterdir()) == [
        "model.toml",
        "openvino_model.bin",
        "openvino_model.xml",
        "tokenizer.json",
    ]
    made = (first / "openvino_model.bin").stat().st_mtime_ns
    shutil.copytree(source, tmp_path / "elsewhere" / "mine")
    assert resolve(str(tmp_path / "elsewhere" / "mine"), kind="cross-encoder") == first
    (source / "README.md").write_text("words decide nothing")
    assert resolve(str(source), kind="cross-encoder") == first
    assert (first / "openvino_model.bin").stat().st_mtime_ns == made
    revision = OpenVinoCrossEncoder(str(source), capacity=SMALL).revision

    weights = bytearray((source / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (source / "model.safetensors").write_bytes(weights)
    second = resolve(str(source), kind="cross-encoder")
    assert second != first
    assert OpenVinoCrossEncoder(str(source), capacity=SMALL).revision != revision
    assert resolve(str(source), kind="encoder") not in (first, second)
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".")]


def test_a_newer_converter_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.cross_encoder(tmp_path / "mine")
    first = resolve(str(source), kind="cross-encoder")
    monkeypatch.setattr(sources, "CONVERTER", sources.CONVERTER + 1)
    assert resolve(str(source), kind="cross-encoder") != first


def test_two_at_the_same_time_make_one(tmp_path: Path, cache: Path) -> None:
    source = tiny.cross_encoder(tmp_path / "mine")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve(str(source), kind="cross-encoder"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert os.listdir(cache) == [found[0].name]


def test_a_cache_that_cannot_be_written_says_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigInvalid, match="PODIUM_CACHE"):
        resolve(str(tiny.cross_encoder(tmp_path / "mine")), kind="cross-encoder")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PODIUM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sources.cache_folder() == tmp_path / "podium" / "models"


def test_a_name_of_the_hub_is_fetched_and_without_a_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = tiny.cross_encoder(tmp_path / "models--org--name" / "snapshots" / "0123abc")
    asked: list[str] = []

    def fetch(name: str, **_: object) -> str:
        asked.append(name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = resolve("org/name", kind=kind_of("org/name"))
    assert found.name.startswith("models--org--name-cross-encoder-")
    assert set(asked) == {"org/name"}

    def unreachable(name: str, **_: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigInvalid, match=r"'org/name'.*no connection.*give its folder"):
        resolve("org/name", kind="cross-encoder")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "gpt2.*extra torch"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_act": "silu"}, "silu"),
        ({"num_hidden_layers": 4}, r"lack encoder\.layer\.3"),
    ],
)
def test_what_cannot_be_written_from_tensors_wants_torch(
    tmp_path: Path, change: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "podium_server.backends.openvino.convert_torch", None)
    source = tiny.cross_encoder(tmp_path / "mine")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ConfigInvalid, match=words):
        resolve(str(source), kind="cross-encoder")


@pytest.mark.parametrize("cut", [4, 200, 5000])
def test_weights_that_are_cut_off_are_no_model(tmp_path: Path, cut: int) -> None:
    source = tiny.cross_encoder(tmp_path / "mine")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[:cut])
    with pytest.raises(ConfigInvalid, match="no safetensors file"):
        resolve(str(source), kind="cross-encoder")


def test_half_precision_is_read(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.25], [3.0, 1e-3]], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    half = values.astype("<f2").tobytes()
    said = json.dumps(
        {
            "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
            "h": {"dtype": "F16", "shape": [2, 2], "data_offsets": [8, 16]},
        }
    ).encode()
    (tmp_path / "x.safetensors").write_bytes(len(said).to_bytes(8, "little") + said + upper + half)
    read = read_tensors(tmp_path / "x.safetensors")
    np.testing.assert_allclose(read["b"], values, rtol=2**-7)
    np.testing.assert_allclose(read["h"].astype(np.float32), values, rtol=2**-10)


def test_a_tokenizer_that_is_missing_is_named(tmp_path: Path) -> None:
    source = tiny.cross_encoder(tmp_path / "mine")
    (source / "tokenizer.json").unlink()
    with pytest.raises(ConfigInvalid, match=r"no tokenizer\.json.*AutoTokenizer"):
        resolve(str(source), kind="cross-encoder")


def test_an_encoder_with_a_projection_has_narrower_token_vectors(tmp_path: Path) -> None:
    source = late_interaction(tmp_path / "late")
    encoder, plain = (
        OpenVinoEncoder(str(source), precision="f32"),
        OpenVinoEncoder(str(tiny.cross_encoder(tmp_path / "plain")), precision="f32"),
    )
    assert (encoder.dim, encoder.token_dim) == (tiny.WIDTH, 12)
    assert (plain.dim, plain.token_dim) == (tiny.WIDTH, tiny.WIDTH)
    texts = ["how long do fleas live", "", "paris " * 200]
    ours, theirs = (each.encode_documents(texts, token_vectors=True) for each in (encoder, plain))
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-4)
    weight = read_tensors(source / "1_Dense" / "model.safetensors")["linear.weight"]
    assert ours.token_vectors is not None
    assert [len(each) for each in ours.token_vectors] == [5, 0, 94]
    # Their directions, not their lengths: what is projected has a length of its own, which is not returned.
    assert all(each.shape[1] == 12 for each in ours.token_vectors)
    np.testing.assert_allclose(np.linalg.norm(ours.token_vectors[0], axis=1), 1, atol=1e-5)
    assert theirs.token_vectors is not None
    np.testing.assert_allclose(ours.token_vectors[0], unit(theirs.token_vectors[0] @ weight.T), atol=1e-4)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "no layer over token vectors"),
        ("1_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}, "Tanh"),
        ("3_MultiVectorMask/config.json", {"skiplist_words": [".", "[CLS]"]}, "leaves tokens out"),
    ],
)
def test_a_module_that_is_not_honoured_is_refused(
    tmp_path: Path, file: str, change: dict[str, object], words: str
) -> None:
    source = late_interaction(tmp_path / "late")
    said = json.loads((source / file).read_text())
    (source / file).write_text(json.dumps(said | change))
    with pytest.raises(ConfigInvalid, match=words):
        resolve(str(source), kind="encoder")


def test_convert_writes_where_it_is_told(tmp_path: Path) -> None:
    source = late_interaction(tmp_path / "late")
    convert(source, tmp_path / "made" / "here", kind="encoder")
    assert resolve(str(tmp_path / "made" / "here"), kind="encoder") == tmp_path / "made" / "here"
    assert OpenVinoEncoder(str(tmp_path / "made" / "here")).token_dim == 12
    assert kind_of(str(tmp_path / "made" / "here")) == "encoder"
    assert kind_of(str(tiny.cross_encoder(tmp_path / "pair"))) == "cross-encoder"


@pytest.mark.parametrize("end", ["Identity", "Sigmoid"])
def test_onnx_is_read_and_its_end_tells_the_scale(tmp_path: Path, end: str) -> None:
    """The model: the greatest token number of a pair, in hundreds, and perhaps a sigmoid of it."""
    folder = tiny.cross_encoder(tmp_path / "exported")
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(greatest_token(end))
    model = OpenVinoCrossEncoder(str(folder), precision="f32", capacity=SMALL)
    pairs = model.pairs("how long", ["fleas live", "paris", ""])
    assert "onnx/model.onnx" in (resolve(str(folder), kind="cross-encoder") / "model.toml").read_text()
    want = np.array([pair.input.ids.max() / 100 for pair in pairs])
    assert model.scale == ("logit" if end == "Identity" else "probability")
    np.testing.assert_allclose(model.score(pairs), want if end == "Identity" else 1 / (1 + np.exp(-want)), atol=1e-5)


def greatest_token(end: str) -> bytes:
    """Return an ONNX file, written as protobuf writes it: (input_ids, attention_mask) → logits."""

    def number(field: int, value: int) -> bytes:
        return bytes([field << 3, value]) if field < 16 else bytes([field << 3 & 0x7F | 0x80, field >> 4, value])

    def part(field: int, value: bytes | str) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
        return bytes([field << 3 | 2]) + size + data

    def node(kind: str, given: list[str], made: str, *attributes: bytes) -> bytes:
        names = b"".join(part(1, name) for name in given) + part(2, made)
        return part(1, names + part(4, kind) + b"".join(part(5, attribute) for attribute in attributes))

    def port(name: str, element: int, *dims: str | int) -> bytes:
        shape = b"".join(part(1, part(2, each) if isinstance(each, str) else number(1, each)) for each in dims)
        return part(1, name) + part(2, part(1, number(1, element) + part(2, shape)))

    to_float = part(1, "to") + number(3, 1) + number(20, 2)
    over_tokens = part(1, "axes") + number(8, 1) + number(20, 7)
    hundred = part(1, "value") + part(5, number(2, 1) + part(9, np.float32(0.01).tobytes())) + number(20, 4)
    graph = (
        node("Cast", ["input_ids"], "ids", to_float)
        + node("Cast", ["attention_mask"], "mask", to_float)
        + node("Mul", ["ids", "mask"], "seen")
        + node("ReduceMax", ["seen"], "greatest", over_tokens)
        + node("Constant", [], "hundredth", hundred)
        + node("Mul", ["greatest", "hundredth"], "score")
        + node(end, ["score"], "logits")
        + part(2, "greatest")
        + part(11, port("input_ids", 7, "pairs", "tokens"))
        + part(11, port("attention_mask", 7, "pairs", "tokens"))
        + part(12, port("logits", 1, "pairs", 1))
    )
    return number(1, 8) + part(7, graph) + part(8, number(2, 13))


def electra(folder: Path, *, head: bool = True) -> str:
    """Write a model of a kind whose graph only torch knows."""
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    from transformers import ElectraConfig, ElectraForSequenceClassification, ElectraModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    cut = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer("bert"),
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        model_max_length=96,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    config = ElectraConfig(
        vocab_size=len(cut),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=96,
        initializer_range=0.5,
        num_labels=1,
    )
    (ElectraForSequenceClassification if head else ElectraModel)(config).eval().save_pretrained(folder)
    cut.save_pretrained(folder)
    return str(folder)


def test_what_only_torch_reads_goes_through_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    library = pytest.importorskip("sentence_transformers", reason="the extra torch is not installed")
    folder = electra(tmp_path / "electra")
    ours = OpenVinoCrossEncoder(folder, precision="f32", capacity=SMALL)
    passages = ["a flea", "paris is the capital", "", "of " * 50]
    want = library.CrossEncoder(folder, device="cpu").predict(
        [("how long", each) for each in passages], activation_fn=torch.nn.Identity()
    )
    np.testing.assert_allclose(ours.score(ours.pairs("how long", passages)), want, atol=1e-3)


def test_a_head_that_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"no trained head.* lack classifier\."):
        resolve(electra(tmp_path / "body", head=False), kind="cross-encoder")


def late_interaction(folder: Path) -> Path:
    """Write what sentence-transformers saves of a `MultiVectorEncoder`."""
    tiny.cross_encoder(folder)
    parts = [
        ("", "sentence_transformers.models.Transformer", None),
        ("1_Pooling", "sentence_transformers.models.Pooling", {"pooling_mode_mean_tokens": True}),
        (
            "1_Dense",
            "sentence_transformers.base.modules.dense.Dense",
            {
                "in_features": tiny.WIDTH,
                "out_features": 12,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
                "module_input_name": "token_embeddings",
            },
        ),
        ("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize", {}),
        (
            "3_MultiVectorMask",
            "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
            {"skiplist_words": ["[CLS]", "[SEP]"]},
        ),
    ]
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind, _) in enumerate(parts)]
    (folder / "modules.json").write_text(json.dumps(listed))
    for path, _, said in parts:
        if said is not None:
            (folder / path).mkdir()
            (folder / path / "config.json").write_text(json.dumps(said))
    weight = np.random.default_rng(5).standard_normal((12, tiny.WIDTH)).astype(np.float32)
    tiny.save_tensors(folder / "1_Dense" / "model.safetensors", {"linear.weight": weight})
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 96}')
    return folder
