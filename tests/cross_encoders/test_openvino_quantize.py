"""Int8: near enough, smaller, loaded by its folder; and `podium optimize`, which says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.openvino import Capacity, OpenVinoCrossEncoder
from podium_server.backends.openvino.quantize import Quantization, quantize
from podium_server.backends.openvino.sources import resolve
from podium_server.cli import app
from podium_server.cli.optimizing.graded import judgments, read_lists
from podium_server.cli.optimizing.measured import spearman
from podium_server.errors import ConfigInvalid, InvalidRequest
from podium_server.jobs.qrels import read_qrels
from tests.cross_encoders import numpy_models as tiny

SMALL = Capacity(lanes=1, padded_tokens=512, pairs=8, tokens_per_s=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "cache"))


def lists(file: Path, count: int, *, labelled: bool = True) -> Path:
    chance = np.random.default_rng(0)
    lines = []
    for i in range(count):
        candidates = [
            {"docid": str(j), "text": " ".join(chance.choice(tiny.WORDS, 20))}
            | ({"rel": int(chance.integers(0, 3))} if labelled else {})
            for j in range(8)
        ]
        lines.append(json.dumps({"qid": str(i), "query": "how long do fleas live", "candidates": candidates}))
    file.write_text("\n".join(lines))
    return file


def nncf() -> None:
    pytest.importorskip("nncf", reason="the extra optimize is not installed")


def test_what_is_kept_from_int8_must_be_there(tmp_path: Path) -> None:
    nncf()
    source = resolve(str(tiny.cross_encoder(tmp_path / "mine")), kind="cross-encoder")
    model = OpenVinoCrossEncoder(str(source), capacity=SMALL)
    samples = [model.inputs(model.pairs("how long", ["a flea"]))]
    with pytest.raises(ConfigInvalid, match=r"'encoder.layer.7.*encoder\.layer\.0"):
        quantize(source, tmp_path, samples, Quantization(keep=("encoder.layer.7",)))


def test_what_is_kept_is_a_regular_expression() -> None:
    with pytest.raises(ConfigInvalid, match=r"'encoder\[', which is no regular expression"):
        Quantization(keep=("encoder[",))


@pytest.mark.parametrize("activations", [True, False])
def test_int8_scores_stay_near(tmp_path: Path, activations: bool) -> None:
    nncf()
    source = resolve(str(tiny.cross_encoder(tmp_path / "mine")), kind="cross-encoder")
    exact = OpenVinoCrossEncoder(str(source), precision="f32", capacity=SMALL)
    chance = np.random.default_rng(1)
    passages = [" ".join(chance.choice(tiny.WORDS, chance.integers(1, 60))) for _ in range(60)]
    pairs = exact.pairs("how long do fleas live", passages)
    made = tmp_path / "int8"
    made.mkdir()
    quantize(source, made, [exact.inputs([pair]) for pair in pairs[:30]], Quantization(activations=activations))
    layers = (made / "openvino_model.xml").read_text().count('type="FakeQuantize"')
    assert (layers > 0) == activations
    for name in ("tokenizer.json", "model.toml"):
        (made / name).write_bytes((source / name).read_bytes())
    ours = OpenVinoCrossEncoder(str(made), precision="f32", capacity=SMALL)
    want, got = exact.score(pairs[30:]), ours.score(ours.pairs("how long do fleas live", passages[30:]))
    # Random weights of 32 numbers a token: a trained model's are kinder.
    assert spearman(got, want) > (0.9 if activations else 0.98)
    assert ours.revision != exact.revision
    # What batching may change of an int8 model.
    alone = np.concatenate([ours.score([pair]) for pair in pairs[30:]])
    np.testing.assert_allclose(got, alone, atol=0.1 * float(want.std()))
    with pytest.raises(ConfigInvalid, match="int8 weights already"):
        quantize(made, tmp_path, [], Quantization(activations=False))


def test_the_command_writes_a_folder_and_says_what_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nncf()
    monkeypatch.chdir(tmp_path)
    tiny.cross_encoder(tmp_path / "mine")
    given_lists = lists(tmp_path / "lists.jsonl", 6)
    assert app.run(["optimize", "mine", "--calibrate", str(given_lists), "--samples", "10"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()][1] == "float32"
    assert printed.splitlines()[-1].split()[0] == "int8"
    assert "nDCG@10" in printed
    made = OpenVinoCrossEncoder("mine-int8", capacity=SMALL)
    assert made.max_tokens == 96
    card = (tmp_path / "mine-int8" / "model.toml").read_text()
    assert 'quantization = "int8 weights and activations, alpha 0.9"' in card
    assert "# Made by podium optimize" in card
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".mine")]
    assert app.run(["optimize", "mine", "--calibrate", str(given_lists)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_labels_are_the_candidates_own_or_those_of_a_file(tmp_path: Path) -> None:
    own = read_lists(str(lists(tmp_path / "own.jsonl", 2)))
    assert all(grade is not None for each in own for grade in each.grades)
    none = read_lists(str(lists(tmp_path / "none.jsonl", 2, labelled=False)))
    assert not judgments(none, None)
    (tmp_path / "qrels").write_text("0 0 3 2\n0 0 99 1\n\n1 0 5 0\n")
    judged = read_qrels(tmp_path / "qrels")
    measures = judgments(none, judged)
    assert list(measures) == [0]  # nothing relevant is judged of the other
    best = np.zeros(8, np.float32)
    best[3] = 1
    # The other relevant document is in no list, and missing counts.
    assert measures[0](best) == pytest.approx(2 / (2 + 1 / np.log2(3)))
    (tmp_path / "bad.jsonl").write_text('{"qid": "1"}')
    with pytest.raises(InvalidRequest, match=r"bad\.jsonl:1"):
        read_lists(str(tmp_path / "bad.jsonl"))


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(ConfigInvalid, match=r"podium\[optimize\]"):
        quantize(tmp_path, tmp_path, [], Quantization())


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_rank_correlation(values: list[int]) -> None:
    scores = np.array(values, np.float32)
    assert spearman(scores, 3 * scores + 1) == pytest.approx(1)
    if len(set(values)) > 1:
        assert spearman(-scores, scores) == pytest.approx(-1)
