"""The other commands: what they print, and how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from podium_server.cli.app import COMMANDS, run
from podium_server.cli.display import console
from tests.cli.conftest import Podium, a_list, lines, write_lists

HEAVY = ("openvino", "faiss", "numpy", "grpc", "openai", "pydantic", "rich", "torch", "podium_client")


def test_help_is_instant_because_it_imports_nothing() -> None:
    code = (
        "import sys; from podium_server.cli.app import run; code = run(['--help'])\n"
        f"sys.exit([name for name in {HEAVY!r} if name in sys.modules] or code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    assert all(name in ended.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(podium: Podium, command: str) -> None:
    ended = podium(command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "Example:" in ended.stdout
    assert f"podium {command}" in ended.stdout.split("Example:")[1]


def test_an_unknown_command(podium: Podium) -> None:
    ended = podium("rernk")
    assert ended.returncode == 2
    assert "rernk" in ended.stderr


def test_verbose_shows_where_an_error_came_from(podium: Podium) -> None:
    for arguments in (("--verbose", "estimate"), ("estimate", "--verbose")):
        ended = podium(*arguments, "--pipeline", "nobody")
        assert ended.returncode == 2
        assert "Traceback" in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("podium: no pipeline is named 'nobody'")


CONFIG = """
[models.far]
backend = "openai"
base_url = "http://192.0.2.1:9/v1"
model = "nobody-there"
prices = { prompt_usd_per_mtok = 1.0, output_usd_per_mtok = 4.0 }
[models.unpriced]
backend = "openai"
base_url = "http://192.0.2.1:9/v1"
model = "nobody-there"
[pipelines.window]
stages = [{ strategy = "sliding-window", model = "far", prompt = "rank-vicuna" }]
[pipelines.unpriced]
stages = [{ strategy = "sliding-window", model = "unpriced", prompt = "rank-vicuna" }]
[pipelines.cascade]
stages = [
  { strategy = "pointwise", model = "minilm", keep = 30 },
  { strategy = "setwise-heapsort", model = "far", k = 10 },
]
"""


def test_an_estimate_calls_no_model(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "podium.toml").write_text(CONFIG)
    began = time.monotonic()
    ended = podium("estimate", "--config", "podium.toml", "--pipeline", "window", "--candidates", 100, "--json")
    assert ended.returncode == 0, ended.stderr
    quote = json.loads(ended.stdout)
    assert (quote["questions"], quote["rounds"], quote["calls"]) == (9, 9, 9)
    assert quote["prompt_tokens"] > 9 * 20 * 100
    assert quote["cost_usd"] == pytest.approx(quote["prompt_tokens"] * 1e-6 + quote["output_tokens"] * 4e-6)
    assert time.monotonic() - began < 20


def test_an_estimate_of_an_unknown_price_has_no_cost(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "podium.toml").write_text(CONFIG)
    ended = podium("estimate", "--config", "podium.toml", "--pipeline", "unpriced", "--json")
    assert "cost_usd" not in json.loads(ended.stdout)
    assert "unknown" in podium("estimate", "--config", "podium.toml", "--pipeline", "unpriced").stdout


def test_an_estimate_of_a_whole_job_and_of_each_stage(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "podium.toml").write_text(CONFIG)
    ended = podium("estimate", "--config", "podium.toml", "--pipeline", "cascade", "--queries", 1000, "--json")
    quote = json.loads(ended.stdout)
    first, second = quote["stages"]
    assert (first["candidates_in"], first["candidates_out"], second["candidates_in"]) == (100, 30, 30)
    assert first["questions"] == 100
    assert not quote["exact"]
    assert quote["questions_max"] >= quote["questions"]
    assert quote["all_queries"]["prompt_tokens"] == 1000 * quote["prompt_tokens"]


def test_an_estimate_of_no_candidates(podium: Podium) -> None:
    quote = json.loads(podium("estimate", "--pipeline", "fast", "--candidates", 0, "--json").stdout)
    assert (quote["questions"], quote["calls"]) == (0, 0)


def test_an_estimate_fits_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PLAIN_WIDTH", 80)
    assert run(["estimate", "--pipeline", "balanced", "--queries", "1000000"]) == 0
    shown = capsys.readouterr().out
    assert "minilm-cross" in shown
    assert "unknown" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_strategies_are_listed_with_their_options(podium: Podium) -> None:
    every = podium("strategies")
    one = podium("strategies", "sliding-window")
    nobody = podium("strategies", "slidng-window")
    assert every.returncode == one.returncode == 0
    assert "sliding-window" in every.stdout
    assert "stride = 10" in one.stdout
    assert "arXiv 2304.09542" in " ".join(one.stdout.split())
    assert nobody.returncode == 2
    assert "did you mean 'sliding-window'?" in nobody.stderr


def test_the_table_of_calls_and_depth(podium: Podium) -> None:
    table = podium("strategies", "--table").stdout
    (row,) = [line.split() for line in table.splitlines() if line.split()[:1] == ["tdpart"]]
    assert row[1:4] == ["7", "7", "3"]


def test_serve_index_search(podium: Podium, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "cat.txt").write_text("The cat sleeps on the mat all day.")
    (notes / "empty.md").write_text(" ")
    rows = [
        {"id": "sun", "title": "Botany", "text": "Leaves turn sunlight into sugar."},
        {"docid": 7, "text": "Bread is baked in an oven."},
        {"id": "nothing"},
    ]
    (notes / "more.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n")
    server = subprocess.Popen(
        [sys.executable, "-m", "podium_server", "serve", "--port", "0", "--data-dir", str(tmp_path / "store")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        assert said.startswith("listening on 127.0.0.1:")
        target = said.split()[-1]

        indexed = podium("index", "--collection", "notes", "--target", target, notes)
        found = podium("search", "--collection", "notes", "--target", target, "--json", "how do plants make food")
        shown = podium("search", "--collection", "notes", "--target", target, "how do plants make food")
        nowhere = podium("search", "--collection", "nots", "--target", target, "x")
        write_lists(tmp_path / "in.jsonl", [a_list("a", 3), a_list("none", 0), a_list("b", 2)])
        ranked = podium("rerank", "--target", target, "--pipeline", "recall", "in.jsonl", "--out", "out.jsonl")
        typo = podium("rerank", "--target", target, "--pipeline", "recal", "in.jsonl", "--out", "o")
    finally:
        server.terminate()
        code = server.wait(30)
    assert code == 0

    assert indexed.returncode == 1
    assert "3 documents in notes: 3 new, 0 replaced, 0 unchanged, 3 not taken" in indexed.stderr
    assert "more.jsonl, line 3: has no text" in indexed.stderr
    assert json.loads(found.stdout)["results"][0]["docid"] == "sun"
    assert "sun" in shown.stdout
    assert "total" in shown.stdout
    assert nowhere.returncode == 2
    assert "did you mean 'notes'?" in nowhere.stderr
    assert ranked.returncode == 0, ranked.stderr
    assert [line["ranking"] for line in lines(tmp_path / "out.jsonl")] == [["a-0", "a-1", "a-2"], [], ["b-0", "b-1"]]
    assert typo.returncode == 2
    assert "did you mean 'recall'?" in typo.stderr


def test_a_port_that_is_taken(podium: Podium, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = podium("serve", "--port", taken.getsockname()[1], "--data-dir", tmp_path / "store")
    assert ended.returncode == 2
    assert "choose another port" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_files_that_are_not_there(podium: Podium, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert podium("index", "--collection", "c", "missing.jsonl").returncode == 1
    ended = podium("index", "--collection", "c", "empty")
    assert ended.returncode == 2
    assert "no file of a known kind" in ended.stderr


def test_a_doctor_looks_at_everything(podium: Podium, tmp_path: Path) -> None:
    well = podium("doctor", "--data-dir", tmp_path / "store")
    assert well.returncode == 0, well.stdout
    for what in ("python", "dependencies", "processor", "cores", "configuration", "encoder", "store", "extra vllm"):
        assert what in well.stdout
    assert "fail" not in well.stdout
    (tmp_path / "podium.toml").write_text("[pipelines.x]\nstages = []\n")
    ill = podium("doctor", "--config", "podium.toml")
    assert ill.returncode == 1
    assert "pipelines.x.stages" in ill.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--collection", "notes", "why"),
        ("index", "--collection", "notes", "IN"),
        ("rerank", "IN", "--out", "OUT"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_dead_target_is_named(podium: Podium, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    given = tmp_path / "in.jsonl"
    write_lists(given, [a_list("q", 2)])
    places = {"IN": str(given), "OUT": str(tmp_path / "out.jsonl")}
    ended = podium(*(places.get(each, each) for each in arguments), "--target", "127.0.0.1:1")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("podium: no server answers at 127.0.0.1:1")


def test_index_leaves_a_line_that_is_no_text_and_takes_short_passages(podium: Podium, tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    notes.write_text('{"id": "a", "text": "x\\udc00"}\n{"id": "b", "text": "a good one"}\n')
    ended = podium(
        "index", "--collection", "notes", "--data-dir", str(tmp_path / "data"), "--chunk-tokens", "32", str(notes)
    )
    assert ended.returncode == 1, ended.stderr
    assert "line 1: has a lone surrogate" in ended.stderr
    assert "1 document in notes: 1 new" in ended.stderr
