"""A user's own prompt, and what is said about one that cannot be."""

from pathlib import Path

import pytest

from podium_strategies.plan import Grade, Order, Pick, Prefer
from podium_strategies.prompts import load
from podium_strategies.prompts.file import InvalidPromptFile, load_prompt_file
from podium_strategies.prompts.prompt import Need, Reads, Sheet, Turn

LEGAL = """
kind = "listwise"
system = "You rank {n} court rulings."
user = '''
{instruction}Question: {query}
{documents}
Best {top} first, as {{"ranking": []}}.'''
document = "({id}) {text}"
separator = " | "
instruction = "Matters: {instruction}. "
words_per_document = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "legal.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_listwise_file(tmp_path: Path) -> None:
    prompt = load(str(write(tmp_path, LEGAL)))
    assert prompt.id == "legal/1"
    assert prompt.kind is Order
    assert prompt.takes_instruction
    shown = prompt.prepare("one  two three", 2)
    assert shown == ("one  two", True)
    turns = prompt.render(Sheet("why {n}", ("one {query}", "two"), "law", top=1))
    assert turns == (
        Turn("system", "You rank 2 court rulings."),
        Turn(
            "user",
            'Matters: law. Question: why {n}\n(1) one {query} | (2) two\nBest 1 first, as {"ranking": []}.',
        ),
    )
    assert prompt.render(Sheet("why", ("a", "b")))[1].content.startswith("Question: why")
    assert prompt.read('{"ranking": [2, 1]}', Sheet("", ("", ""))).answer == (1, 0)
    assert prompt.read("First 2, then 1", Sheet("", ("", ""))).answer == (1, 0)


def test_the_other_kinds(tmp_path: Path) -> None:
    user = 'user = "{query} {documents}"\n'
    pointwise = load_prompt_file(
        write(tmp_path, f'kind = "pointwise"\nreads = "labels"\nlabels = ["ja", "nein"]\nprefill = "So: "\n{user}')
    )
    assert pointwise.kind is Grade
    assert pointwise.labels(1) == ("ja", "nein")
    assert pointwise.weigh([-1.0, -1.0], 1) == pytest.approx(0.5)
    assert pointwise.needs == {Need.LABELS, Need.PREFILL}
    scored = load_prompt_file(write(tmp_path, f'kind = "pointwise"\nscale = [1, 5]\n{user}'))
    assert scored.read("4", Sheet("", ("",))).answer == 4.0
    pairwise = load_prompt_file(write(tmp_path, f'kind = "pairwise"\n{user}'))
    assert pairwise.kind is Prefer
    assert pairwise.read("B", Sheet("", ("", ""))).answer == 0.0
    setwise = load_prompt_file(write(tmp_path, f'kind = "setwise"\nreads = "labels"\n{user}'))
    assert setwise.kind is Pick
    assert setwise.reads is Reads.LABELS
    assert setwise.labels(3) == ("A", "B", "C")
    numbered = load_prompt_file(write(tmp_path, f'kind = "setwise"\nidentifiers = "numbers"\n{user}'))
    assert numbered.read("Passage 2", Sheet("", ("",) * 3)).answer == 1


def test_two_files_with_other_words_have_other_digests(tmp_path: Path) -> None:
    one = load_prompt_file(write(tmp_path, LEGAL)).digest
    other = load_prompt_file(write(tmp_path, LEGAL.replace("court", "high court"))).digest
    assert one != other


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "kind: is needed: one of listwise, setwise, pairwise, pointwise"),
        ('kind = "lists"', "kind: is 'lists', and must be one of listwise"),
        ('kind = "listwise"', "user: is needed"),
        ('kind = "listwise"\nuser = "{query}"', "user: needs {documents}"),
        (
            'kind = "listwise"\nuser = "{documents} {qurey}"',
            "user: there is no {qurey}; did you mean {query}? (known: {query}, {instruction}, {documents}, {n}, {top}",
        ),
        ('kind = "listwise"\nuser = "{documents}"\ndocument = "{text}"', "document: needs {id}"),
        ('kind = "listwise"\nuser = "{documents}"\nsytem = "x"', "sytem: no such key; did you mean 'system'?"),
        ('kind = "listwise"\nuser = "{documents}"\nwords_per_document = 0', "words_per_document: is 0: at least 1"),
        ('kind = "listwise"\nuser = "{documents}"\nversion = true', "version: is True, and must be a whole number"),
        ('kind = "listwise"\nuser = "{documents}"\nlabels = ["a", "b"]', "labels: have a meaning where"),
        ('kind = "pointwise"\nreads = "labels"\nuser = "{documents}"', "labels: is None, and must be at least two"),
        (
            'kind = "pointwise"\nreads = "labels"\nuser = "{documents}"\nlabels = ["a", "b"]\nvalues = [1]',
            "values: is [1], and must be 2 finite numbers",
        ),
        (
            'kind = "setwise"\nreads = "labels"\nidentifiers = "numbers"\nuser = "{documents}"',
            "identifiers: must be 'letters'",
        ),
        ('kind = "pointwise"\nscale = [5, 1]\nuser = "{documents}"', "scale: is [5, 1]"),
        ("kind = ", "is no valid TOML"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidPromptFile) as refusal:
        load_prompt_file(path)
    assert str(refusal.value).startswith(str(path))
    assert complaint in str(refusal.value)


def test_a_file_that_is_not_there_is_too_long_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidPromptFile, match="cannot be read: No such file"):
        load_prompt_file(tmp_path / "none.toml")
    with pytest.raises(InvalidPromptFile, match="longer than"):
        load_prompt_file(write(tmp_path, "#" * 300_000))
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidPromptFile, match="is not UTF-8"):
        load_prompt_file(tmp_path / "raw.toml")
