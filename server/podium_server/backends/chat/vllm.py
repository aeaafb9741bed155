"""A chat model in this process, on vLLM's asynchronous engine (extra `vllm`): for offline jobs on a machine's own GPU.

The engine batches whatever is under way at a time, so that a judge that asks a whole round at once has the round in
one batch. What stands alike at the beginning of prompts is computed once (prefix caching).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, ChatReply
from podium_server.backends.chat.endpoints import EndpointLimits, Endpoints
from podium_server.backends.chat.label_tokens import LabelTokens
from podium_server.backends.chat.openai.fields import TOP_LOGPROBS_MAX, is_prefilled
from podium_server.backends.chat.openai.replies import label_logprobs
from podium_server.backends.chat.tokens import TokenCounter, load_tokens
from podium_server.errors import BackendDown, BackendRefused, ConfigInvalid, DeadlineExceeded, PodiumError
from podium_strategies.prompts.text import split_thought


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """The limits of the engine's calls.

    Args:
        concurrency: calls in the engine at a time. It schedules them itself; the bound is for memory.
        queue_max: calls that wait before it; one more is `Overloaded`.
        reply_wait_s_max: of one call, in the engine. Offline batches are deep, so that it is long.

    """

    concurrency: int = 1024
    queue_max: int = 100_000
    reply_wait_s_max: float = 3600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} is {value}: it must be above 0")


class VllmChat:
    """A `ChatBackend` over vLLM in the process. The engine starts with the first call, or with `start`.

    Args:
        name: the configured model's name.
        model: a folder, or a name on the hub.
        engine_args: fields of vLLM's `AsyncEngineArgs`, such as `{"max_model_len": 8192, "dtype": "bfloat16"}`.
        settings: limits.
        chat_template: Jinja that takes the place of the model's own.
        chat_template_kwargs: handed to the template, such as `{"enable_thinking": False}`.
        prices: of the calls.

    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        engine_args: Mapping[str, Any] = MappingProxyType({}),
        settings: VllmSettings | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
        prices: Prices | None = None,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise ConfigInvalid(f"model {name!r} needs vLLM: pip install 'podium[vllm]'") from error
        self._vllm = vllm
        self._name = name
        self._model = model
        self._engine_args = {"enable_prefix_caching": True, "disable_log_stats": True, **engine_args, "model": model}
        self.settings = settings if settings is not None else VllmSettings()
        self._chat_template = chat_template
        self._chat_template_kwargs = dict(chat_template_kwargs)
        self._prices = prices if prices is not None else Prices()
        self._engine: Any = None
        self._starting: asyncio.Task[Any] | None = None
        self._tokenizer: Any = None
        self._tokens: TokenCounter | None = None
        self._labels = LabelTokens(self._ids)
        self._numbers = itertools.count()
        self._under_way: set[asyncio.Task[Any]] = set()
        # One endpoint: the queue and its bound are the same as those of an endpoint on the network.
        limits = EndpointLimits(concurrency=self.settings.concurrency, queue_max=self.settings.queue_max)
        self._places = Endpoints(("vllm",), limits, clock=time.monotonic, sleep=asyncio.sleep)

    # --- who it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The configured model's name."""
        return self._name

    @property
    def revision(self) -> str:
        """The model, and its revision where the configuration names one."""
        revision = self._engine_args.get("revision")
        return f"{self._model}@{revision}" if revision else self._model

    @property
    def variant(self) -> str:
        """The engine's arguments (a quantisation answers otherwise) and the template's."""
        said = [self._engine_args, self._chat_template, self._chat_template_kwargs]
        return json.dumps(said, sort_keys=True, default=str)

    @property
    def prices(self) -> Prices:
        """What the calls cost."""
        return self._prices

    @property
    def context_tokens(self) -> int | None:
        """The most tokens, prompt and reply together; until the engine runs, what the configuration says."""
        if self._engine is not None:
            return int(self._engine.model_config.max_model_len)
        configured = self._engine_args.get("max_model_len")
        return configured if isinstance(configured, int) else None

    async def capabilities(self) -> frozenset[Capability]:
        """Return what the engine can do: everything, so that nothing needs to be tried."""
        return frozenset(Capability)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        return self._counter().count(text)

    def shorten(self, text: str, max_tokens: int, *, from_start: bool = False) -> tuple[str, bool]:
        """Cut `text` to at most `max_tokens` tokens at its end (or start); return it and whether it was cut."""
        return self._counter().shorten(text, max_tokens, from_start=from_start)

    def _counter(self) -> TokenCounter:
        if self._tokens is None:
            # Without the engine: an estimate of a job's cost must not load its weights.
            self._tokens = load_tokens(str(self._engine_args.get("tokenizer") or self._model))
        return self._tokens

    # --- the engine ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the model. Takes minutes for a large one; the loop stays free meanwhile.

        Raises:
            BackendDown: it cannot be loaded.

        """
        if self._engine is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(asyncio.to_thread(self._load))
        # Shielded: one caller who is cancelled must not leave the others without an engine.
        self._engine, self._tokenizer = await asyncio.shield(self._starting)

    def _load(self) -> tuple[Any, Any]:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._engine_args))
        except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise BackendDown(f"model {self._name!r}: vLLM cannot load {self._model!r}: {_line(error)}") from error
        tokenizer = engine.get_tokenizer()
        if self._chat_template is None and getattr(tokenizer, "chat_template", None) is None:
            engine.shutdown()
            raise BackendDown(f"model {self._name!r}: {self._model!r} has no chat template; configure chat_template")
        return engine, tokenizer

    async def aclose(self) -> None:
        """Stop the engine. Calls under way are cancelled."""
        mine = asyncio.current_task()
        others = [task for task in self._under_way if task is not mine]
        for task in others:
            task.cancel()
        self._places.close()
        await asyncio.gather(*others, return_exceptions=True)
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._engine is not None:
            engine, self._engine, self._starting = self._engine, None, None
            # On this thread: the loop's reader of the engine's answers must not see it die before it is stopped.
            engine.shutdown()

    # --- calls --------------------------------------------------------------------------------------------------

    async def complete(
        self,
        call: ChatCall,
        *,
        deadline_at: float | None = None,
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> ChatReply:
        """Make one call. See `ChatBackend.complete`; an engine in the process is not asked twice."""
        if sum(one is not None for one in (call.schema, call.choice, call.regex)) > 1:
            raise ValueError("a call takes one of schema, choice and regex")
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        spent = Usage()
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(None if deadline_at is None else max(0.0, deadline_at - began_s)):
                await self.start()
                place = await self._places.place(call.max_output_tokens)
                try:
                    sent_s = time.monotonic()
                    spent = Usage(queue_s=sent_s - began_s)
                    prompt, params, label_ids = await self._request(call)
                    ready_s = time.monotonic()
                    spent = Usage(calls=1, queue_s=sent_s - began_s, tokenize_s=ready_s - sent_s)
                    # Until the engine says what it did: the whole prompt.
                    spent = replace(spent, prompt_tokens=len(prompt))
                    try:
                        output = await self._generate(prompt, params)
                    finally:
                        spent = replace(spent, backend_s=time.monotonic() - ready_s)
                finally:
                    self._places.leave(place)
            return self._reply(call, output, label_ids, spent)
        except TimeoutError as error:
            late = DeadlineExceeded(f"model {self._name!r}: the deadline passed before vLLM answered")
            raise ChatFailure(late, self._charged_estimate(spent)) from error
        except PodiumError as error:
            raise ChatFailure(error, self._charged_estimate(spent)) from error
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel(self._charged_estimate(spent))
            raise
        finally:
            if task is not None:
                self._under_way.discard(task)

    def _charged_estimate(self, spent: Usage) -> Usage:
        """Price what a call that came to nothing has used, as far as that is known."""
        if spent.prompt_tokens:
            spent = replace(spent, repairs=MappingProxyType({"usage_estimated": 1}))
        return self._prices.charge(spent)

    async def _generate(self, prompt: list[int], params: Any) -> Any:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        request_id = f"podium-{next(self._numbers)}"
        output: Any = None
        stream = self._engine.generate(tokens_input(prompt), params, request_id)
        try:
            try:
                async with asyncio.timeout(self.settings.reply_wait_s_max):
                    async for latest in stream:
                        output = latest
            finally:
                # Closed here and now, and not when it is collected: a cancelled request must leave the engine.
                await stream.aclose()
        except TimeoutError as error:
            raise BackendDown(
                f"model {self._name!r}: vLLM gave no answer within {self.settings.reply_wait_s_max:g} s"
            ) from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise BackendDown(f"model {self._name!r}: vLLM failed: {_line(error)}") from error
        except (VLLMClientError, ValueError) as error:
            raise BackendRefused(f"model {self._name!r}: vLLM refuses the call: {_line(error)}") from error
        if output is None or not output.outputs:
            raise BackendDown(f"model {self._name!r}: vLLM ended the call without an answer")
        return output

    def _prompt(self, messages: Iterable[Mapping[str, str]], *, begun: bool) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._chat_template,
            tokenize=False,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            **self._chat_template_kwargs,
        )
        # The template has written the special tokens.
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    async def _request(self, call: ChatCall) -> tuple[list[int], Any, dict[str, tuple[int, ...]] | None]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        begun = is_prefilled(call)
        turns = [{"role": turn.role, "content": turn.content} for turn in call.messages]
        if call.score_continuation is not None:
            if not begun:
                turns.append({"role": "assistant", "content": ""})
            turns[-1] = {"role": "assistant", "content": turns[-1]["content"] + call.score_continuation}
            params = SamplingParams(
                max_tokens=1, temperature=0.0, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
            )
            return self._prompt(turns, begun=True), params, None
        structured = None
        if call.schema is not None:
            structured = StructuredOutputsParams(json=dict(call.schema))
        elif call.choice is not None:
            structured = StructuredOutputsParams(choice=list(call.choice))
        elif call.regex is not None:
            structured = StructuredOutputsParams(regex=call.regex)
        label_ids = None if call.labels is None else await self._labels.of(call)
        params = SamplingParams(
            max_tokens=call.max_output_tokens,
            temperature=call.temperature,
            seed=call.seed,
            stop=list(call.stop) or None,
            structured_outputs=structured,
            logprobs=TOP_LOGPROBS_MAX if call.labels is not None and label_ids is None else None,
            logprob_token_ids=None if label_ids is None else [one for own in label_ids.values() for one in own],
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return self._prompt(turns, begun=begun), params, label_ids

    async def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _reply(
        self, call: ChatCall, output: Any, label_ids: dict[str, tuple[int, ...]] | None, spent: Usage
    ) -> ChatReply:
        said = output.outputs[0]
        text, thought = split_thought(said.text)
        output_tokens = len(said.token_ids)
        reasoning = min(len(self._tokenizer.encode(thought, add_special_tokens=False)), output_tokens) if thought else 0
        usage = replace(
            spent,
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=min(output.num_cached_tokens or 0, len(output.prompt_token_ids)),
            output_tokens=output_tokens,
            reasoning_tokens=reasoning,
        )
        found: dict[str, float] | None = None
        unseen: float | None = None
        if call.labels is not None:
            place = said.logprobs[0] if said.logprobs else {}
            told = [
                (f"token_id:{number}" if label_ids is not None else one.decoded_token or "", min(0.0, one.logprob))
                for number, one in place.items()
            ]
            found, unseen = label_logprobs(told, call.labels, label_ids)
        return ChatReply(
            text="" if call.score_continuation is not None else text,
            finish_reason=said.finish_reason or "stop",
            label_logprobs=found,
            unseen_logprob=unseen,
            continuation_logprob=self._continuation_logprob(call, output),
            usage=self._prices.charge(usage),
            model=self._model,
        )

    def _continuation_logprob(self, call: ChatCall, output: Any) -> float | None:
        if call.score_continuation is None:
            return None
        begun = is_prefilled(call)
        prefix = self._prompt(({"role": turn.role, "content": turn.content} for turn in call.messages), begun=begun)
        whole = output.prompt_token_ids
        # What merges with the end of what stands before it begins at the first token that differs.
        start = next(
            (n for n, (one, other) in enumerate(zip(prefix, whole, strict=False)) if one != other), len(prefix)
        )
        return sum(
            float(place[number].logprob)
            for number, place in zip(whole[start:], output.prompt_logprobs[start:], strict=True)
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
