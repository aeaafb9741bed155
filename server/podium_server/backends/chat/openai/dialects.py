"""The kinds of servers that speak OpenAI's chat protocol: what each is asked for, in which words. No I/O.

Every server of the kind takes the same few fields, and each says the rest (structured output, log-probabilities of
given tokens, a begun reply) in its own way, or takes it silently and does nothing about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from podium_server.backends.chat.backend import Capability
from podium_server.backends.json_errors import ErrorBody


@dataclass(frozen=True, slots=True)
class Forms:
    """How one endpoint is asked for what is beyond the common protocol; empty where it cannot be.

    Args:
        json: of a JSON schema: `structured_outputs` (vLLM), `json_schema` (OpenAI, SGLang, Ollama, TGI, llama.cpp's own
            server) or `json_object` (llama-cpp-python).
        choice: of a list of replies: `structured_outputs`, `regex` (SGLang) or `grammar` (llama.cpp).
        regex: of a pattern: `structured_outputs` or `regex`.
        prefill: of a reply's beginning: `continue_final_message` (vLLM, SGLang) or `as_is` (llama.cpp's own server
            and Ollama continue a last assistant's turn without being told to).

    """

    json: str = ""
    choice: str = ""
    regex: str = ""
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is worth trying with one kind of server: the forms in the order of preference."""

    json: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    prefill: tuple[str, ...] = ()
    vllm_fields: bool = False
    """Whether `logprob_token_ids`, `prompt_logprobs` and `/tokenize` are worth trying."""
    output_bound: str = "max_tokens"
    """The field that bounds the reply: OpenAI's newer models refuse `max_tokens`, most others know nothing else."""

    def declared(self, capabilities: frozenset[Capability]) -> Forms:
        """Return the forms of capabilities that the configuration vouches for."""
        mine = {Capability.CHOICE, Capability.REGEX, Capability.LABEL_LOGPROBS, Capability.PROMPT_LOGPROBS}
        # Where the dialect is not named, OpenAI's form of a schema is the one that most servers know, unless something
        # else is declared that vLLM alone has.
        by_vllm = self.vllm_fields and bool(mine & capabilities)
        json_form = next(iter(self.json), "")
        if json_form == "structured_outputs" and "json_schema" in self.json and not by_vllm:
            json_form = "json_schema"
        return Forms(
            json=json_form if Capability.JSON_SCHEMA in capabilities else "",
            choice=next(iter(self.choice), "") if Capability.CHOICE in capabilities else "",
            regex=next(iter(self.regex), "") if Capability.REGEX in capabilities else "",
            prefill=next(iter(self.prefill), "") if Capability.PREFILL in capabilities else "",
        )


DIALECTS: Mapping[str, Dialect] = {
    "auto": Dialect(
        json=("structured_outputs", "json_schema", "json_object"),
        choice=("structured_outputs", "regex", "grammar"),
        regex=("structured_outputs", "regex"),
        prefill=("continue_final_message", "as_is"),
        vllm_fields=True,
    ),
    "openai": Dialect(json=("json_schema",), output_bound="max_completion_tokens"),
    "vllm": Dialect(
        json=("structured_outputs",),
        choice=("structured_outputs",),
        regex=("structured_outputs",),
        prefill=("continue_final_message",),
        vllm_fields=True,
    ),
    "sglang": Dialect(
        json=("json_schema",), choice=("regex",), regex=("regex",), prefill=("continue_final_message", "as_is")
    ),
    "llama.cpp": Dialect(json=("json_object", "json_schema"), choice=("grammar",), prefill=("as_is",)),
    "ollama": Dialect(json=("json_schema",), prefill=("as_is",)),
    "tgi": Dialect(json=("json_schema",)),
}


@dataclass(frozen=True, slots=True)
class Quirks:
    """What an endpoint was found to refuse, although most take it."""

    output_bound: str = "max_tokens"
    temperature: bool = True
    seed: bool = True

    def after(self, error: ErrorBody) -> Quirks:
        """Return what is known after a refusal; the same where it teaches nothing."""
        if error.code not in ("unsupported_parameter", "unsupported_value") and not _REFUSAL.search(error.message):
            return self
        # The message may name the field to use instead as well: the one that is refused comes first.
        quoted = re.search(r"[`'\"]([a-z_]+)[`'\"]", error.message)
        field = error.param or (quoted[1] if quoted else "")
        if field == self.output_bound:
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
            return replace(self, output_bound=other[field])
        if field == "temperature":
            return replace(self, temperature=False)
        if field == "seed":
            return replace(self, seed=False)
        return self


_REFUSAL = re.compile(r"unsupported|not support|unrecognized|extra inputs|not permitted|unexpected", re.IGNORECASE)


_CONTEXT = re.compile(
    r"context.{0,12}(length|window|size)|too (long|many tokens)|(prompt|input).{0,40}exceed|exceed.{0,40}(token|len)",
    re.IGNORECASE,
)


def is_context_error(error: ErrorBody) -> bool:
    """Whether the call was refused because it is longer than the model can hold."""
    return error.code == "context_length_exceeded" or bool(_CONTEXT.search(error.message))
