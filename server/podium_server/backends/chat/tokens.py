"""Counting and cutting text by tokens: exactly where the model's tokenizer is at hand, else by bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from podium_server.errors import ConfigInvalid

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES_PER_TOKEN = 3
"""Bytes of UTF-8 that a token is assumed to hold where no tokenizer is configured.

English prose holds more than 4 in most vocabularies and Chinese or Japanese about 3, so a count made with 3 is above
the true one for prose. It is below it for long runs of digits, of rare symbols or of scripts that a model was hardly
trained on; who needs exact cuts there configures the tokenizer.
"""


class TokenCounter(Protocol):
    """How one model cuts text into tokens."""

    @property
    def exact(self) -> bool:
        """Whether the counts are the model's own."""

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special ones left out."""

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Cut `text` to at most `max_tokens` tokens at its end (or start); return it and whether it was cut."""

    def ids(self, text: str) -> list[int] | None:
        """Return the tokens of `text`, or None where they are not known."""


class ByteEstimate:
    """An estimate from the length of the text alone; see `BYTES_PER_TOKEN`."""

    exact = False

    def count(self, text: str) -> int:
        """Return a number of tokens that is above the true one for prose."""
        return -(-_utf8_length(text) // BYTES_PER_TOKEN)

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Cut `text` to as many bytes as `max_tokens` tokens are assumed to hold, and never inside a character."""
        bytes_max = max(max_tokens, 0) * BYTES_PER_TOKEN
        if len(text) * 4 <= bytes_max or _utf8_length(text) <= bytes_max:
            return text, False
        raw = text.encode("utf-8", "surrogatepass")
        kept = raw[len(raw) - bytes_max :] if from_start else raw[:bytes_max]
        # "ignore" drops the halves of a character that the cut went through.
        return kept.decode("utf-8", "ignore"), True

    def ids(self, text: str) -> list[int] | None:
        """Return None: no tokenizer is configured."""
        return None


class ExactTokens:
    """The model's own tokenizer, in the file format of Hugging Face's `tokenizers`."""

    exact = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A tokenizer.json may carry the truncation and padding of its training; here they would falsify every count.
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, special ones left out."""
        return len(self._tokenizer.encode(_encodable(text), add_special_tokens=False).ids)

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Cut `text` between two of its tokens so that what is left counts as at most `max_tokens`."""
        # A token is at least one byte and so a character at most four: short texts need no counting. (Not quite true of
        # vocabularies with normalisation, whence the factor.)
        if len(text) * 8 <= max_tokens:
            return text, False
        text = _encodable(text)
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= max_tokens:
            return text, False
        kept = max_tokens
        while kept > 0:
            piece = text[offsets[-kept][0] :] if from_start else text[: offsets[kept - 1][1]]
            # The end of a piece can split otherwise than the same place amid the text, and a character can be several
            # tokens, of which the cut would take a part: count again, and give way by as much as it is over.
            excess = self.count(piece) - max_tokens
            if excess <= 0:
                return piece, True
            kept -= excess
        return "", True

    def ids(self, text: str) -> list[int] | None:
        """Return the tokens of `text`, special ones left out."""
        return list(self._tokenizer.encode(_encodable(text), add_special_tokens=False).ids)


def load_tokens(where: str | None) -> TokenCounter:
    """Return the counter of a configured tokenizer, or the estimate where none is configured.

    Args:
        where: a `tokenizer.json`, a folder that holds one, or a name on the Hugging Face hub (fetched, so that it needs
            the network); None for the estimate.

    """
    if where is None:
        return ByteEstimate()
    from tokenizers import Tokenizer

    path = Path(where).expanduser()
    if path.is_dir():
        path /= "tokenizer.json"
    local = path.is_file()
    if not local and (path.suffix == ".json" or path.is_absolute() or where.startswith((".", "~"))):
        raise ConfigInvalid(f"tokenizer {where!r}: there is no file {path}")
    try:
        return ExactTokens(Tokenizer.from_file(str(path)) if local else Tokenizer.from_pretrained(where))
    # The library raises a bare Exception for every bad file and every failed download.
    except Exception as error:
        hint = "" if local else "; give the folder of its tokenizer.json to do without the network"
        raise ConfigInvalid(f"tokenizer {where!r} cannot be loaded ({_one_line(error)}){hint}") from error


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _encodable(text: str) -> str:
    """Return `text` with lone surrogates replaced: the library refuses them with a TypeError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
