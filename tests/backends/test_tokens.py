from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from podium_server.backends.chat.tokens import ByteEstimate, ExactTokens, TokenCounter, load_tokens
from podium_server.errors import ConfigInvalid


def trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["the passage about the cat and the other passage"] * 5,
        trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


EXACT = ExactTokens(trained())


@pytest.mark.parametrize("counter", [EXACT, ByteEstimate()])
@given(text=st.text(), most=st.integers(0, 40), from_start=st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_cut_fits_and_is_an_end_of_the_text(
    counter: TokenCounter, text: str, most: int, from_start: bool
) -> None:
    cut, was_cut = counter.shorten(text, most, from_start=from_start)
    assert counter.count(cut) <= most
    assert was_cut == (cut != text)
    assert text.endswith(cut) if from_start else text.startswith(cut)
    if counter.count(text) <= most:
        assert cut == text


def test_exact_cuts_keep_as_many_tokens_as_fit() -> None:
    text = "the passage about the cat " * 50
    for most in (1, 10, 100):
        assert EXACT.count(EXACT.shorten(text, most)[0]) == most


def test_lone_surrogates_are_counted() -> None:
    for counter in (EXACT, ByteEstimate()):
        assert counter.count("a\ud800b") > 0
        counter.shorten("a\ud800b" * 100, 7)


def test_a_tokenizer_s_own_truncation_does_not_falsify_counts() -> None:
    tokenizer = trained()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100)
    assert ExactTokens(tokenizer).count("the cat " * 30) > 4
    assert ExactTokens(tokenizer).count("") == 0


def test_files_and_folders(tmp_path: pytest.TempPathFactory) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    trained().save(str(folder / "tokenizer.json"))
    for where in (folder, folder / "tokenizer.json"):
        assert load_tokens(str(where)).exact
    assert not load_tokens(None).exact
    (folder / "bad.json").write_text("{}")
    for where in (folder / "bad.json", folder / "none.json", folder / "no" / "folder"):
        with pytest.raises(ConfigInvalid):
            load_tokens(str(where))
