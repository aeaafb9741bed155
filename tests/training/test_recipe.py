"""Recipes: what is refused, and with which words. No torch."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from podium_server.errors import ConfigInvalid
from podium_server.training.recipe import Data, Recipe
from podium_server.training.recipe_file import data_folders, found, load, parse

SMALLEST: dict[str, Any] = {"data": [{"path": "a.jsonl"}], "development": [{"path": "b.jsonl"}]}
REPOSITORY = Path(__file__).parents[2]


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse({**SMALLEST, **changes}, where="r.toml")
    return caught.value.message


def test_the_smallest_recipe_is_two_paths() -> None:
    recipe = parse(SMALLEST, where="r.toml")
    assert isinstance(recipe, Recipe)
    assert recipe.student.kind == "late-interaction"
    assert recipe.learning_voices == {"maxsim": 1.0, "cosine": 0.5}
    assert recipe.measured_voice == "fused"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"kind": "colbert"}}, "student.kind: Input should be"),
        ({"student": {"layer": 3}}, "student.layer: no such key; did you mean 'layers'? (known: kind, start"),
        ({"trainig": {}}, "trainig: no such key; did you mean 'training'?"),
        ({"data": [{"path": "a", "losses": "kl"}]}, "data.0.losses: no such key; did you mean 'loss'?"),
        ({"data": [{"path": "a", "loss": "ranknets"}]}, "no loss is named 'ranknets'; did you mean 'ranknet'?"),
        ({"data": [{"path": "a", "target": {"ranks": 1}}]}, "data.0.target.ranks: no such key; did you mean 'rank'?"),
        ({"data": [{"path": "a", "negatives": {"ranks": [9, 3]}}]}, "ranks are the first and the last"),
        ({"data": [{"path": "a", "loss": {"kl": 1, "in-batch": 1}}]}, "'in-batch' stands alone"),
        ({"data": [{"path": "a", "documents": 4, "unranked": 4}]}, "unranked is 4 and documents is 4"),
        ({"data": [{"path": "a", "top": [[45, 0.3], [15, 0.3]]}]}, "top is [[last place, share], …]"),
        ({"data": [{"path": "a", "top": [[15, 0.7], [45, 0.7]]}]}, "top is [[last place, share], …]"),
        ({"data": []}, "[[data]] is needed"),
        ({"development": []}, 'add [[development]] with path = "a.jsonl" and queries = 100'),
        ({"development": [{"path": "b", "after": True}]}, "[[development]] is needed"),
        ({"student": {"kind": "bi-encoder"}, "training": {"voice": "maxsim"}}, "a bi-encoder has no voice 'maxsim'"),
        ({"student": {"head": "joint-maxsim"}}, "head = 'joint-maxsim' is a cross-encoder's"),
        ({"student": {"kind": "cross-encoder", "joint_from": 2}}, "joint_from and restart_positions are those of"),
        (
            {"student": {"kind": "cross-encoder", "max_query_tokens": 30, "max_tokens": 32}},
            "max_query_tokens is 30 and max_tokens is 32, into which a query, a text and up to 4 special tokens go",
        ),
        ({"data": [{"path": "a", "target": {"teacher": 1}}]}, "target.teacher needs a [teacher]"),
        ({"data": [{"path": "a", "format": "collection"}]}, "a collection has judgments and no lists"),
        ({"data": [{"path": "a", "queries": 500, "documents": 16}]}, "a step draws 8500 texts; 2048 is the most"),
        ({"data": [{"path": "a", "queries": 64, "negatives": {"documents": 64}}]}, "a step draws 4224 texts"),
        ({"data": [{"path": "a", "negatives": {"documents": 64, "random": 64}}]}, "a step draws 2080 texts"),
        ({"training": {"steps": 0}}, "training.steps: Input should be greater than or equal to 1; it is 0"),
    ],
)
def test_a_mistake_is_named_with_its_cure(changes: dict[str, Any], said: str) -> None:
    assert said in refused(**changes)


def test_a_large_batch_of_pairs_is_no_large_step() -> None:
    parse({**SMALLEST, "data": [{"path": "a", "queries": 256, "loss": "in-batch"}]}, where="r.toml")


def test_a_cross_encoder_has_no_batch_of_vectors() -> None:
    said = refused(student={"kind": "cross-encoder"}, data=[{"path": "a", "loss": "in-batch"}])
    assert "a cross-encoder has none" in said


def test_a_file_that_is_missing_or_no_toml_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[student\n")
    with pytest.raises(ConfigInvalid, match="is no valid TOML"):
        load(tmp_path / "bad.toml")


def test_steps_on_the_command_line_stand_in_for_the_recipe_s(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('[training]\nsteps = 500\n[[data]]\npath = "a"\n[[development]]\npath = "b"\n')
    assert load(file).training.steps == 500
    assert load(file, steps=3).training.steps == 3
    assert load(file).fingerprint() != load(file, steps=3).fingerprint()


def test_paths_are_looked_for_beside_the_recipe_and_then_in_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, data = tmp_path / "here", tmp_path / "data"
    for folder, names in ((here, ["a.jsonl"]), (data, ["a.jsonl", "b1.jsonl", "b2.jsonl"])):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    monkeypatch.setenv("PODIUM_DATA", str(data))
    folders = data_folders(here / "r.toml", None)
    assert found("a.jsonl", folders) == [here / "a.jsonl"]
    assert found("b?.jsonl", folders) == [data / "b1.jsonl", data / "b2.jsonl"]
    assert found(str(data / "b*.jsonl"), folders) == [data / "b1.jsonl", data / "b2.jsonl"]
    with pytest.raises(ConfigInvalid, match=r"there is no file 'c' in .*here nor .*data; --data or \$PODIUM_DATA"):
        found("c", folders)


@pytest.mark.parametrize(
    "file",
    [file for file in sorted((REPOSITORY / "training").glob("*.toml")) if file.name != "fusion.toml"],
    ids=lambda file: file.name,
)
def test_the_recipes_of_the_shipped_students_are_valid_and_learn_from_no_evaluation(file: Path) -> None:
    recipe = load(file)
    assert isinstance(recipe, Recipe)
    for entry in recipe.data:
        assert all(path.startswith("train/") for path in entry.paths)
    for each in recipe.development:
        assert each.after == each.paths[0].startswith("eval/"), "an evaluation set must decide nothing"


def test_a_recipe_s_fingerprint_is_of_all_that_it_says() -> None:
    one = Recipe(data=(Data(path="a"),), development=parse(SMALLEST, where="").development)
    other = one.model_copy(update={"data": (Data(path="a", weight=2.0),)})
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == one.model_copy().fingerprint()


def test_the_recipes_of_the_tutorial_are_recipes() -> None:
    text = (REPOSITORY / "docs" / "distil.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[[data]]" in block]
    assert len(blocks) == 2
    for block in blocks:
        assert isinstance(parse(tomllib.loads(block), where="docs/distil.md"), Recipe)
    assert blocks[1].strip() in (REPOSITORY / "training" / "nfcorpus.toml").read_text("utf-8")


@pytest.mark.parametrize("name", ["minilm-late", "minilm-cross"])
def test_the_card_of_a_shipped_student_has_the_recipe_that_makes_it(name: str) -> None:
    card = (REPOSITORY / "server" / "podium_server" / "models" / name / "README.md").read_text("utf-8")
    assert (REPOSITORY / "training" / f"{name}.toml").read_text("utf-8").strip() in card
