"""The whole way, from recipe to folder, with a model small enough for it. Needs the extra `train`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra train is not installed: pip install 'podium[train]'")
pytest.importorskip("transformers", reason="the extra train is not installed: pip install 'podium[train]'")

from podium_server.errors import ConfigInvalid, PodiumError  # noqa: E402
from podium_server.training.job import Order, distil  # noqa: E402
from podium_server.training.torch_students import Asked, build, load_student  # noqa: E402
from tests.training.tiny import lists, pairs, tiny_bert, written  # noqa: E402

RECIPE = """
[student]
kind = "{kind}"
start = "{start}"
{student}
max_tokens = 32
max_query_tokens = 8
train_embeddings = true

[training]
steps = 8
lr = {lr}
warmup_steps = 2
threads = 1
microbatch = 4
evaluate_every = 4
checkpoint_every = 3
precision = "fp32"
{training}

[[data]]
path = "lists.jsonl"
queries = 1.5
documents = 5
top = [[2, 0.4]]
loss = {{ kl = 0.5, ranknet = 0.5 }}

[[data]]
path = "pairs.jsonl"
queries = 3
negatives = {{ by = "bm25", ranks = [1, 20] }}

[[development]]
path = "lists.jsonl"
queries = 4
"""

STUDENTS = {
    "late": ("late-interaction", "token_dim = 16\ndropout = 0.1"),
    "bi": ("bi-encoder", ""),
    "cross": ("cross-encoder", "dropout = 0.1"),
    "joint": ("cross-encoder", 'head = "joint-maxsim"\njoint_from = 1\nrestart_positions = true\ntoken_dim = 16'),
}


class Silent:
    """A watcher that keeps what it is told, and may end the run."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.remarks: list[str] = []
        self.values: list[tuple[int, Mapping[str, float]]] = []

    def remark(self, sentence: str) -> None:
        self.remarks.append(sentence)

    def preparing(self, what: str, done: int, total: int | None) -> None:
        pass

    def step(self, step: int, steps: int, losses: Mapping[str, float], share: float, elapsed_s: float) -> None:
        if step == self.stop_after:
            raise KeyboardInterrupt

    def measured(self, step: int, values: Mapping[str, float], *, best: bool) -> None:
        self.values.append((step, values))


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    tiny_bert(tmp_path / "start")
    written(tmp_path / "lists.jsonl", lists(24))
    written(tmp_path / "pairs.jsonl", pairs(40))
    return tmp_path


def recipe(folder: Path, which: str, *, training: str = "", lr: float = 5e-3) -> Path:
    kind, student = STUDENTS[which]
    text = RECIPE.format(kind=kind, start=folder / "start", student=student, training=training, lr=lr)
    file = folder / f"{which}.toml"
    file.write_text(text)
    return file


def order(file: Path, out: Path, **more: Any) -> Order:
    return Order(file, out, cache=file.parent / "cache", **more)


def final_weights(out: Path) -> dict[str, Any]:
    kept = sorted((out / "training").glob("checkpoint-*.pt"))[-1]
    weights: dict[str, Any] = torch.load(kept, weights_only=True)["weights"]
    return weights


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("which", STUDENTS)
def test_a_student_learns_and_its_folder_scores_as_it_was_measured(toys: Path, which: str) -> None:
    file = recipe(toys, which)
    result = distil(order(file, toys / "out"), Silent())
    (_, voices), *_ = result.results.values()
    comparison = next(iter(voices.values()))
    assert comparison.queries == 4
    loaded = load_student(toys / "out").eval()
    row = lists(1, seed=9)[0]
    asked = Asked(row["query"], tuple(each["text"] for each in row["ranked"]), 32, 8)
    best = torch.load(toys / "out" / "training" / "best.pt", weights_only=True)["weights"]
    trained = build(loaded.student.model_copy(update={"start": str(toys / "start")}))
    trained.load_state_dict(best)
    with torch.no_grad():
        (ours, _), (theirs, _) = loaded([asked], [], 4), trained.eval()([asked], [], 4)
    for voice in ours[0]:
        assert torch.allclose(ours[0][voice], theirs[0][voice], atol=1e-5)
    card = (toys / "out" / "README.md").read_text()
    for said in ("lists.jsonl", "kl", "nDCG@10", "podium distil", str(comparison.queries)):
        assert said in card
    assert (toys / "out" / "training" / "curve.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("which", ["late", "cross", "joint"])
def test_an_interrupted_run_goes_on_to_the_same_weights(toys: Path, which: str) -> None:
    file = recipe(toys, which)
    distil(order(file, toys / "whole"), Silent())
    with pytest.raises(KeyboardInterrupt):
        distil(order(file, toys / "cut"), Silent(stop_after=5))
    distil(order(file, toys / "cut", resume=True), Silent())
    assert same(final_weights(toys / "whole"), final_weights(toys / "cut"))
    logs = [(toys / name / "training" / "training.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    for name in ("model.safetensors",):
        assert (toys / "whole" / name).read_bytes() == (toys / "cut" / name).read_bytes()


def test_a_killed_run_goes_on_to_the_same_weights(toys: Path) -> None:
    file = recipe(toys, "late")
    distil(order(file, toys / "whole"), Silent())
    killer = (
        "import os, signal, sys; from pathlib import Path; from tests.training.test_distil import Silent, order\n"
        "from podium_server.training.job import distil\n"
        "class Killing(Silent):\n"
        "    def step(self, step, *rest):\n"
        "        if step == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "distil(order(Path(sys.argv[1]), Path(sys.argv[2])), Killing())\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-c", killer, str(file), str(toys / "cut")],
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    distil(order(file, toys / "cut", resume=True), Silent())
    assert same(final_weights(toys / "whole"), final_weights(toys / "cut"))


def test_best_weights_beyond_the_checkpoint_are_not_kept(toys: Path) -> None:
    """A run that the clock ends may not come so far again."""
    file = recipe(toys, "late", training="patience = 9")
    with pytest.raises(KeyboardInterrupt):
        distil(order(file, toys / "out"), Silent(stop_after=5))
    best = toys / "out" / "training" / "best.pt"
    assert torch.load(best, weights_only=True)["step"] == 4  # and the checkpoint is of step 3
    with pytest.raises(KeyboardInterrupt):
        distil(order(file, toys / "out", resume=True), Silent(stop_after=4))
    assert not best.exists()
    result = distil(order(file, toys / "out", resume=True), Silent())
    assert torch.load(best, weights_only=True)["step"] == result.kept_step


def test_best_weights_that_are_gone_are_looked_for_again(toys: Path) -> None:
    """They were of a step beyond the checkpoint, and whoever went on was killed before the next one."""
    with pytest.raises(KeyboardInterrupt):
        distil(order(recipe(toys, "late"), toys / "out"), Silent(stop_after=7))
    work = toys / "out" / "training"
    kept = torch.load(work / "checkpoint-00000006.pt", weights_only=True)
    assert kept["state"]["best_step"] == 4
    kept["state"]["best"] = 2.0  # no later measurement is better
    torch.save(kept, work / "checkpoint-00000006.pt")
    (work / "best.pt").unlink()
    result = distil(order(recipe(toys, "late"), toys / "out", resume=True), Silent())
    assert torch.load(work / "best.pt", weights_only=True)["step"] == result.kept_step == 8


def test_another_seed_gives_other_weights(toys: Path) -> None:
    distil(order(recipe(toys, "late"), toys / "one"), Silent())
    distil(order(recipe(toys, "late", training="seed = 1"), toys / "two"), Silent())
    assert not same(final_weights(toys / "one"), final_weights(toys / "two"))


def test_a_loss_that_is_no_number_ends_the_run_with_its_step(toys: Path) -> None:
    file = recipe(toys, "late", lr=1e30, training="clip = 1e30")
    with pytest.raises(PodiumError, match=r"loss at step \d+ is no number"):
        distil(order(file, toys / "out"), Silent())


def test_patience_ends_a_run_that_does_not_get_better(toys: Path) -> None:
    file = recipe(toys, "late", lr=1e-12, training="patience = 1")
    text = file.read_text().replace("evaluate_every = 4", "evaluate_every = 2").replace("steps = 8", "steps = 40")
    file.write_text(text)
    watcher = Silent()
    result = distil(order(file, toys / "out"), watcher)
    assert result.steps == 4
    assert result.kept_step == 2
    assert any("stopped at step 4" in remark for remark in watcher.remarks)


def test_a_folder_with_a_run_is_not_begun_anew(toys: Path) -> None:
    file = recipe(toys, "bi")
    distil(order(file, toys / "out"), Silent())
    with pytest.raises(ConfigInvalid, match="--resume"):
        distil(order(file, toys / "out"), Silent())


def test_a_checkpoint_of_another_recipe_is_refused(toys: Path) -> None:
    distil(order(recipe(toys, "bi"), toys / "out"), Silent())
    with pytest.raises(ConfigInvalid, match="another recipe"):
        distil(order(recipe(toys, "bi", lr=1e-3), toys / "out", resume=True), Silent())


def test_a_joint_head_that_never_joins_is_the_start_s_late_interaction(toys: Path) -> None:
    from podium_server.training.recipe import Student

    start = str(toys / "start")
    own = {"start": start, "token_dim": 0, "max_query_tokens": 8, "max_tokens": 32, "temperature": 20.0}
    late = build(Student(kind="late-interaction", **own)).eval()
    joint = build(
        Student(kind="cross-encoder", head="joint-maxsim", joint_from=2, restart_positions=True, **own)
    ).eval()
    row = lists(1, seed=5)[0]
    asked = Asked(row["query"], tuple(each["text"] for each in row["ranked"]), 32, 8)
    with torch.no_grad():
        one, other = late([asked], [], 4)[0][0]["maxsim"], joint([asked], [], 4)[0][0]["logit"]
    assert torch.allclose(one, other, atol=1e-4)


def test_teacher_and_anchor_are_asked(toys: Path) -> None:
    distil(order(recipe(toys, "late"), toys / "teacher"), Silent())
    text = recipe(toys, "cross", training="anchor = 0.5").read_text()
    text = (
        text.replace("top = [[2, 0.4]]", "target = { teacher = 1.0 }") + f'\n[teacher]\nmodel = "{toys / "teacher"}"\n'
    )
    file = toys / "taught.toml"
    file.write_text(text)
    result = distil(order(file, toys / "out"), Silent())
    assert result.steps == 8
    said = json.loads((toys / "out" / "podium_student.json").read_text())
    assert said["training"]["anchor"] == 0.5


def test_an_anchor_that_a_batch_would_not_feel_is_refused(toys: Path) -> None:
    """A cross-encoder reads pairs, and an in-batch loss compares each query with all texts of the batch."""
    distil(order(recipe(toys, "joint"), toys / "teacher"), Silent())
    file = recipe(toys, "late", training="anchor = 0.5")
    file.write_text(file.read_text() + f'\n[teacher]\nmodel = "{toys / "teacher"}"\n')
    with pytest.raises(ConfigInvalid, match=r"data 'pairs': training.anchor is 0.5, and the teacher .* 'in-batch'"):
        distil(order(file, toys / "out"), Silent())


def test_a_text_of_several_lists_is_encoded_once_in_a_measurement(toys: Path) -> None:
    from podium_server.training.recipe import Student

    student = build(Student(kind="late-interaction", start=str(toys / "start"), token_dim=0, max_tokens=32)).eval()
    texts = tuple(each["text"] for each in lists(1, seed=5)[0]["ranked"])
    first, again = Asked("w1 w2", texts, 32, 8), Asked("w3", texts[::-1], 32, 8)
    passed: list[int] = []
    student.body.register_forward_hook(lambda _module, _given, out: passed.append(len(out.last_hidden_state)))
    with torch.no_grad():
        alone = student([again], [], 4)[0][0]["fused"]
        passed.clear()
        with student.remembering():
            student([first], [], 4)
            remembered = student([again], [], 4)[0][0]["fused"]
    assert sum(passed) == len(set(texts)) + 2  # and two queries
    assert torch.allclose(alone, remembered, atol=1e-5)


def test_a_measurement_remembers_so_much_and_no_more(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from podium_server.training import torch_students
    from podium_server.training.recipe import Student

    monkeypatch.setattr(torch_students, "_NUMBERS_REMEMBERED", 32 * 40)
    student = build(Student(kind="late-interaction", start=str(toys / "start"), token_dim=0, max_tokens=32)).eval()
    assert isinstance(student, torch_students.Encoding)
    texts = tuple(each["text"] for each in lists(1, seed=5)[0]["ranked"])
    with torch.no_grad(), student.remembering():
        student([Asked("w1 w2", texts, 32, 8)], [], 4)
        assert student._remembered
        kept = list(student._remembered.values())
    assert 32 * 20 < sum(vectors.numel() + pooled.numel() for vectors, pooled in kept) <= 32 * 40


def test_blending_to_almost_nothing_gives_the_start_back(toys: Path) -> None:
    distil(order(recipe(toys, "bi", training="blend = 1e-9"), toys / "out"), Silent())
    start, out = build(_student(toys / "start")), build(_student(toys / "out"))
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(start.state_dict().values(), out.state_dict().values(), strict=True)
    )


def _student(folder: Path) -> Any:
    from podium_server.training.recipe import Student

    return Student(kind="bi-encoder", start=str(folder), max_tokens=32)


def test_sentence_transformers_reads_a_late_interaction_student(toys: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    if not hasattr(library, "MultiVectorEncoder"):
        pytest.skip("sentence-transformers has MultiVectorEncoder from version 6 on")
    distil(order(recipe(toys, "late"), toys / "out"), Silent())
    row = lists(1, seed=7)[0]
    texts = [each["text"] for each in row["ranked"]]
    ours = load_student(toys / "out").eval()
    with torch.no_grad():
        scores = ours([Asked(row["query"], tuple(texts), 32, 8)], [], 4)[0][0]["maxsim"] / ours.student.temperature
    model = library.MultiVectorEncoder(str(toys / "out"), device="cpu")
    theirs = model.similarity(model.encode_query([row["query"]]), model.encode_document(texts))[0]
    assert torch.allclose(scores, theirs.float(), atol=1e-4)


def test_sentence_transformers_reads_a_cross_encoder(toys: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    distil(order(recipe(toys, "cross"), toys / "out"), Silent())
    row = lists(1, seed=7)[0]
    texts = [each["text"] for each in row["ranked"]]
    ours = load_student(toys / "out").eval()
    with torch.no_grad():
        scores = ours([Asked(row["query"], tuple(texts), 32, 8)], [], 4)[0][0]["logit"]
    model = library.CrossEncoder(str(toys / "out"), device="cpu", activation_fn=torch.nn.Identity())
    theirs = torch.as_tensor(model.predict([(row["query"], text) for text in texts], show_progress_bar=False))
    assert torch.allclose(scores, theirs, atol=1e-4)


def test_the_server_s_own_engine_gives_a_late_student_s_scores(toys: Path) -> None:
    from podium_server.backends.encoders.maxsim import maxsim
    from podium_server.backends.encoders.openvino import OpenVinoEncoder

    distil(order(recipe(toys, "late"), toys / "out"), Silent())
    query, texts, wanted = _scored(toys / "out")
    encoder = OpenVinoEncoder(str(toys / "out"))
    asked = encoder.encode_queries([query], token_vectors=True)
    documents = encoder.encode_documents(texts, token_vectors=True)
    assert asked.token_vectors is not None
    assert documents.token_vectors is not None
    late = maxsim(asked.token_vectors[0], list(documents.token_vectors))
    _agree(late, wanted["maxsim"] / 20)
    _agree(documents.vectors @ asked.vectors[0], wanted["cosine"] / 20)


@pytest.mark.parametrize("which", ["cross", "joint"])
def test_the_server_s_own_engine_gives_a_cross_encoder_s_scores(toys: Path, which: str) -> None:
    from podium_server.backends.cross_encoders.openvino import OpenVinoCrossEncoder

    distil(order(recipe(toys, which), toys / "out"), Silent())
    query, texts, wanted = _scored(toys / "out")
    engine = OpenVinoCrossEncoder(str(toys / "out"))
    scores = engine.score(engine.pairs(query, texts))
    _agree(scores, wanted["logit"])


def _agree(ours: Any, wanted: Any) -> None:
    """Assert that scores are those of torch, as far as the engine's bfloat16 goes: far less than they differ by."""
    theirs = wanted.numpy()
    spread = float(theirs.max() - theirs.min())
    assert spread > 0
    assert float(abs(ours - theirs).max()) < max(0.1 * spread, 2e-3), (ours, theirs)


def _scored(folder: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Return a query, texts, and the scores that torch gives them."""
    row = lists(1, seed=7)[0]
    texts = [each["text"] for each in row["ranked"]]
    with torch.no_grad():
        scores = load_student(folder).eval()([Asked(row["query"], tuple(texts), 32, 8)], [], 4)[0][0]
    return row["query"], texts, scores


def test_a_fusion_of_students_is_fitted_and_measured(toys: Path) -> None:
    for which in ("late", "cross"):
        distil(order(recipe(toys, which), toys / which), Silent())
    text = f"""
[[signal]]
name = "maxsim"
model = "{toys / "late"}"
[[signal]]
name = "cosine"
model = "{toys / "late"}"
voice = "cosine"
[[signal]]
name = "cross"
model = "{toys / "cross"}"
voice = "logit"
[[signal]]
name = "first"
model = "first-stage"
[[development]]
path = "lists.jsonl"
queries = 6
[[development]]
name = "all"
path = "lists.jsonl"
after = true
"""
    file = toys / "fusion.toml"
    file.write_text(text)
    result = distil(order(file, toys / "fused"), Silent())
    voices = result.results["all"][1]
    assert set(voices) == {"fused", "maxsim", "cosine", "cross", "first"}
    assert voices["fused"].queries == 24
    written_ = (toys / "fused" / "pipeline.toml").read_text()
    assert 'method = "z-score"' in written_
    assert "equal weights" in (toys / "fused" / "README.md").read_text()


def test_a_fusion_s_unknown_voice_is_refused(toys: Path) -> None:
    text = f'[[signal]]\nname = "a"\nmodel = "{toys / "start"}"\nvoice = "logit"\n'
    text += f'[[signal]]\nname = "b"\nmodel = "{toys / "start"}"\n[[development]]\npath = "lists.jsonl"\n'
    file = toys / "fusion.toml"
    file.write_text(text)
    with pytest.raises(ConfigInvalid, match=r"has no voice 'logit' \(it has: .*maxsim"):
        distil(order(file, toys / "fused"), Silent())


def test_a_fresh_head_is_compared_with_the_student_that_it_was_put_on(toys: Path) -> None:
    late = distil(order(recipe(toys, "late"), toys / "late-student"), Silent())
    file = toys / "on-top.toml"
    file.write_text(recipe(toys, "joint").read_text().replace(str(toys / "start"), str(toys / "late-student")))
    joint = distil(order(file, toys / "out"), Silent())
    (_, before), *_ = late.results.values()
    (_, after), *_ = joint.results.values()
    assert after["logit"].before == pytest.approx(before["fused"].after, abs=1e-6)


def test_a_teacher_s_unknown_voice_is_refused(toys: Path) -> None:
    file = recipe(toys, "late")
    file.write_text(file.read_text() + f'\n[teacher]\nmodel = "{toys / "start"}"\nvoice = "logit"\n')
    with pytest.raises(ConfigInvalid, match=r"teacher\.voice is 'logit'; .* \(it has: fused"):
        distil(order(file, toys / "out"), Silent())
