"""The joint-maxsim head: late interaction where query and passage stay apart, the student's own score where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from podium_server.backends.cross_encoders.openvino import Capacity, OpenVinoCrossEncoder
from podium_server.backends.encoders.maxsim import maxsim
from podium_server.backends.encoders.openvino import OpenVinoEncoder
from podium_server.backends.openvino.safetensors import read_tensors
from podium_server.errors import ConfigInvalid
from tests.cross_encoders import numpy_models as tiny
from tests.cross_encoders.test_openvino_sources import late_interaction

SMALL = Capacity(lanes=1, padded_tokens=512, pairs=8, tokens_per_s=1.0)
QUERIES = ["how long do fleas live", "a", "", "the " * 30]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIUM_CACHE", str(tmp_path / "cache"))


def passages() -> list[str]:
    chance = np.random.default_rng(2)
    return [" ".join(chance.choice(tiny.WORDS, count)) for count in (1, 5, 20, 40, 55)]


def student(folder: Path, *, joint_from: int, restart: bool, segments: bool) -> Path:
    """Write what `podium distil` writes of a joint-maxsim student, over the body of `late_interaction`."""
    late_interaction(folder)
    (folder / "modules.json").unlink()
    chance = np.random.default_rng(7)
    head = {
        "reading.weight": 0.5 * chance.standard_normal((1, tiny.WIDTH)),
        "reading.bias": np.array([0.25]),
        "temperature": np.array(12.0),
        "projection.weight": read_tensors(folder / "1_Dense" / "model.safetensors")["linear.weight"],
    }
    tiny.save_tensors(folder / "head.safetensors", head)
    said = {
        "kind": "cross-encoder",
        "head": "joint-maxsim",
        "joint_from": joint_from,
        "restart_positions": restart,
        "segments": segments,
        "max_tokens": 96,
        "token_dim": 12,
        "temperature": 20.0,
    }
    (folder / "podium_student.json").write_text(json.dumps({"student": said}))
    return folder


def test_apart_to_the_end_it_is_late_interaction(tmp_path: Path) -> None:
    folder = student(tmp_path / "joint", joint_from=tiny.LAYERS, restart=True, segments=False)
    encoder = OpenVinoEncoder(str(late_interaction(tmp_path / "late")), precision="f32")
    ours = OpenVinoCrossEncoder(str(folder), precision="f32", capacity=SMALL)
    head = read_tensors(folder / "head.safetensors")
    for query in QUERIES:
        asked = encoder.encode_queries([query], token_vectors=True)
        given = encoder.encode_documents(passages(), token_vectors=True)
        assert asked.token_vectors is not None
        assert given.token_vectors is not None
        late = maxsim(asked.token_vectors[0], given.token_vectors)
        got = ours.score(ours.pairs(query, passages()))
        # The reading of [CLS] sees the query alone, so that it moves all scores of a query alike.
        rest = got - head["temperature"] * late
        np.testing.assert_allclose(rest, rest.mean(), atol=2e-4)


@pytest.mark.parametrize("joint_from", [0, 1, tiny.LAYERS])
@pytest.mark.parametrize(("restart", "segments"), [(False, True), (False, False), (True, True)])
def test_a_batch_gives_what_each_pair_gives_alone(
    tmp_path: Path, joint_from: int, restart: bool, segments: bool
) -> None:
    folder = student(tmp_path / "joint", joint_from=joint_from, restart=restart, segments=segments)
    ours = OpenVinoCrossEncoder(str(folder), precision="f32", capacity=SMALL)
    pairs = [pair for query in QUERIES for pair in ours.pairs(query, passages())]
    together = ours.score(pairs)
    assert together.std() > 0.1
    np.testing.assert_allclose(together, np.concatenate([ours.score([pair]) for pair in pairs]), atol=2e-4)
    [special] = ours.pairs("", [""])
    assert special.input.ids.tolist() == ([2, 3, 2, 3] if restart else [2, 3, 3])
    assert special.input.types.tolist() == ([0, 0, 1, 1] if restart else [0, 0, 1])


@pytest.mark.parametrize("joint_from", [0, 1, tiny.LAYERS])
@pytest.mark.parametrize(("restart", "segments"), [(False, True), (True, False)])
def test_scores_are_those_of_the_student_that_was_trained(
    tmp_path: Path, joint_from: int, restart: bool, segments: bool
) -> None:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    pytest.importorskip("safetensors.torch", reason="the extra torch is not installed")
    from podium_server.training.recipe import Student
    from podium_server.training.torch_students import build

    folder = student(tmp_path / "joint", joint_from=joint_from, restart=restart, segments=segments)
    said = json.loads((folder / "podium_student.json").read_text())["student"]
    theirs = build(Student(start=str(folder), **said)).eval()
    ours = OpenVinoCrossEncoder(str(folder), precision="f32", capacity=SMALL)
    tokenizer = tiny.tokenizer("bert")

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    for query in QUERIES:
        with torch.no_grad():
            want = theirs._pass([(ids(query), ids(text)) for text in passages()]).numpy()  # type: ignore[operator]
        np.testing.assert_allclose(ours.score(ours.pairs(query, passages())), want, atol=5e-4)


def test_a_head_that_lacks_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "podium_server.backends.openvino.convert_torch", None)
    folder = student(tmp_path / "joint", joint_from=1, restart=False, segments=False)
    tiny.save_tensors(folder / "head.safetensors", {"temperature": np.array(12.0)})
    with pytest.raises(ConfigInvalid, match=r"reading\.weight"):
        OpenVinoCrossEncoder(str(folder), capacity=SMALL)
    (folder / "podium_student.json").write_text('{"student": {"head": "joint-maxsim"}}')
    with pytest.raises(ConfigInvalid, match="joint_from"):
        OpenVinoCrossEncoder(str(folder), capacity=SMALL)
