import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.recall.text import QUERY_TERMS_MAX, document_terms, query_terms, stem, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run a sub-process, then stop_it!", ["run", "a", "sub", "process", "then", "stop", "it"]),
        ("Ｆｕｌｌ ＷＩＤＴＨ", ["full", "width"]),
        ("Café naïve Straße ΛΌΓΟΣ", ["cafe", "naive", "strasse", "λογοσ"]),
        ("北京大学", ["北", "京", "大", "学", "北京", "京大", "大学"]),
        ("Python语言3.11版", ["python", "语", "言", "语言", "3", "11", "版"]),
        ("ｶﾞﾗｽ", ["ガ", "ラ", "ス", "ガラ", "ラス"]),
        ("ที่นี่", ["ที่", "นี่", "ที่นี่"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("한국어", ["한", "국", "어", "한국", "국어"]),
        ("𠮷野家", ["𠮷", "野", "家", "𠮷野", "野家"]),
        ("  \n \u200b ", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert list(words(text)) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_a_query_leaves_single_letters_out_where_pairs_say_it_better() -> None:
    assert list(words("北京 狗", query=True)) == ["北京", "狗"]


@given(st.text())
def test_every_term_of_a_query_is_a_term_of_the_same_text(text: str) -> None:
    distinct, counts, length = document_terms(text)
    assert set(query_terms(text).tolist()) <= set(distinct.tolist())
    assert counts.sum() == length
    assert (distinct[1:] > distinct[:-1]).all()


@given(st.text())
def test_normalization_does_not_depend_on_the_form(text: str) -> None:
    assert list(words(unicodedata.normalize("NFD", text))) == list(words(unicodedata.normalize("NFC", text)))


def test_a_long_query_is_bounded() -> None:
    assert len(query_terms(" ".join(map(str, range(10_000))))) == QUERY_TERMS_MAX


@pytest.mark.parametrize(
    ("word", "expected"),
    # From the paper's own examples, and its vocabulary.
    [
        ("caresses", "caress"), ("ponies", "poni"), ("ties", "ti"), ("caress", "caress"), ("cats", "cat"),
        ("feed", "feed"), ("agreed", "agre"), ("plastered", "plaster"), ("bled", "bled"), ("motoring", "motor"),
        ("sing", "sing"), ("conflated", "conflat"), ("troubled", "troubl"), ("sized", "size"), ("hopping", "hop"),
        ("tanned", "tan"), ("falling", "fall"), ("hissing", "hiss"), ("fizzed", "fizz"), ("failing", "fail"),
        ("filing", "file"), ("happy", "happi"), ("sky", "sky"), ("relational", "relat"), ("conditional", "condit"),
        ("rational", "ration"), ("valenci", "valenc"), ("digitizer", "digit"), ("conformabli", "conform"),
        ("radicalli", "radic"), ("vietnamization", "vietnam"), ("predication", "predic"), ("operator", "oper"),
        ("feudalism", "feudal"), ("decisiveness", "decis"), ("hopefulness", "hope"), ("formaliti", "formal"),
        ("sensitiviti", "sensit"), ("sensibiliti", "sensibl"), ("triplicate", "triplic"), ("formative", "form"),
        ("formalize", "formal"), ("electrical", "electr"), ("hopeful", "hope"), ("goodness", "good"),
        ("revival", "reviv"), ("allowance", "allow"), ("inference", "infer"), ("airliner", "airlin"),
        ("adjustable", "adjust"), ("defensible", "defens"), ("irritant", "irrit"), ("replacement", "replac"),
        ("adjustment", "adjust"), ("dependent", "depend"), ("adoption", "adopt"), ("communism", "commun"),
        ("activate", "activ"), ("effective", "effect"), ("bowdlerize", "bowdler"), ("probate", "probat"),
        ("rate", "rate"), ("cease", "ceas"), ("controll", "control"), ("roll", "roll"), ("yes", "ye"), ("is", "is"),
        ("x2", "x2"), ("語", "語"),
    ],
)  # fmt: skip
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected
