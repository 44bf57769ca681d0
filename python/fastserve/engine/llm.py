"""The offline API: a model in this process that completes lists of prompts."""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Self, cast

from fastserve.engine.admission import bad_word_ids, check_prompt, check_sampling
from fastserve.engine.console import BatchProgress, StartProgress, deferred_interrupt
from fastserve.engine.options import engine_config
from fastserve.engine.output_processor import LiveRequest, OutputProcessor
from fastserve.engine.prepare import named_as_asked, prepare
from fastserve.engine.process import DEFAULT_CORE_FACTORY, load_core_factory
from fastserve.engine.request import EngineRequest
from fastserve.errors import EngineDeadError, InvalidArgumentError, OverloadedError
from fastserve.log import get_logger
from fastserve.logprobs import TokenLogprobs
from fastserve.tokenizer.chat_template import Message, TemplateOptions
from fastserve.types import CompletionDelta, CompletionOutput, EngineOutput, FinishReason, RequestOutput, SamplingParams

logger = get_logger(__name__)

Prompt = str | Sequence[int]


class LLM:
    """A model that runs in this process, for one caller at a time.

    Attributes:
        config: the whole configuration.
        tokenizer: of the model.
        info: what the engine found out at start.
    """

    def __init__(self, model: str, *, core_factory: str = DEFAULT_CORE_FACTORY, **options: object) -> None:
        """Load a model.

        Args:
            model: folder of a Hugging Face checkpoint, or a hub id, which is downloaded once.
            core_factory: "module:function" that makes the engine core from (config, progress=...).
            options: fields of ModelConfig, CacheConfig, ParallelConfig and SchedulerConfig, under their names or aliases.
        Raises:
            InvalidArgumentError: an option is unknown or out of range, or the model has no tokenizer.
            CheckpointError: the checkpoint cannot be used.
        """
        self.config = engine_config(model, options)
        prepared = prepare(self.config)
        self.tokenizer, self._defaults = prepared.tokenizer, prepared.defaults
        with closing(StartProgress()) as progress:
            self._core = load_core_factory(core_factory)(prepared.config, progress=progress)
        self._requests = OutputProcessor(self.tokenizer)
        self._closed = ""
        self.info = named_as_asked(self._core.info, self.config)

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the parameters of requests that have none: those that the model's publisher recommends."""
        return self._defaults.params()

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete prompts and return the outputs in the order of the prompts.

        The outputs of a prompt that cannot run, or fails, have finish_reason "error" and say why; the other prompts are
        not affected. Ctrl-C aborts all requests and raises KeyboardInterrupt once the engine is empty; a second Ctrl-C
        raises it at once.

        Args:
            prompts: a text, or a list of texts or lists of token ids.
            sampling: for all prompts, or one for each; None = `get_default_sampling_params`.
            use_tqdm: show a progress bar on standard error.
        Raises:
            InvalidArgumentError: prompts or sampling are of the wrong type or number.
            EngineDeadError: this LLM was closed, or its engine failed before.
        """
        found: list[object] = [prompts] if isinstance(prompts, str) else list(prompts)
        for prompt in found:
            if isinstance(prompt, int):
                raise InvalidArgumentError("token ids must come as a list of prompts: [[1, 2, 3]], got [1, 2, 3]")
        jobs = [_Job(params) for params in self._per_prompt(sampling, len(found))]
        for job, prompt in zip(jobs, found, strict=True):
            self._prepare(job, prompt, add_special_tokens=True)
        return self._run(jobs, use_tqdm=use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[object] | None = None,
        chat_template_kwargs: Mapping[str, object] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete conversations with the model's chat template; otherwise like `generate`.

        Args:
            messages: a conversation (a list of `{"role": ..., "content": ...}`), or a list of conversations.
            sampling: for all conversations, or one for each; None = `get_default_sampling_params`.
            chat_template: in the place of the model's own: its text, or the name of one of the model's.
            add_generation_prompt: end the prompt where the assistant's answer begins.
            continue_final_message: complete the last message itself; needs `add_generation_prompt=False`.
            tools: descriptions of tools, for templates that know them.
            chat_template_kwargs: variables of the template, such as `{"enable_thinking": False}`.
            use_tqdm: show a progress bar on standard error.
        Raises:
            InvalidArgumentError: the model has no chat template, or options contradict each other; also as `generate`.
            EngineDeadError: as `generate`.
        """
        templates = self.tokenizer.chat_templates.with_template(chat_template)
        options = TemplateOptions(
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            variables=chat_template_kwargs or {},
        )
        if not templates.sources:
            raise InvalidArgumentError("the model has no chat template; use generate with a prompt instead")
        one = bool(messages) and isinstance(messages[0], dict)
        conversations = cast(Sequence[Sequence[Message]], [messages] if one else messages)
        jobs = [_Job(params) for params in self._per_prompt(sampling, len(conversations))]
        for job, conversation in zip(jobs, conversations, strict=True):
            try:
                prompt = templates.render(conversation, options)
            except InvalidArgumentError as error:
                job.error = str(error)
                continue
            self._prepare(job, prompt, add_special_tokens=False)
        return self._run(jobs, use_tqdm=use_tqdm)

    def close(self) -> None:
        """Release the model; may be called again."""
        if not self._closed:
            self._closed = "this LLM was closed"
            self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _per_prompt(
        self, sampling: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
    ) -> Sequence[SamplingParams]:
        if sampling is None or isinstance(sampling, SamplingParams):
            return [sampling or self.get_default_sampling_params()] * num_prompts
        if len(sampling) != num_prompts or not all(isinstance(params, SamplingParams) for params in sampling):
            raise InvalidArgumentError(
                f"sampling must be one SamplingParams, or one for each of the {num_prompts} prompts, got {len(sampling)}"
            )
        return sampling

    def _prepare(self, job: "_Job", prompt: object, *, add_special_tokens: bool) -> None:
        """Turn a prompt into checked token ids, or into the job's error."""
        try:
            if isinstance(prompt, str):
                job.prompt = prompt
                prompt = self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
            if not isinstance(prompt, Sequence):
                raise InvalidArgumentError(f"a prompt must be a text or a list of token ids, got {prompt!r:.100}")
            job.token_ids = check_prompt(prompt, self.info)
            check_sampling(job.sampling, self.info)
        except InvalidArgumentError as error:
            job.error = str(error)

    def _run(self, jobs: "list[_Job]", *, use_tqdm: bool) -> list[RequestOutput]:
        if self._closed:
            raise EngineDeadError(self._closed)
        waiting: deque[EngineRequest] = deque()
        for i, job in enumerate(jobs):
            if job.error is None:
                bans = bad_word_ids(job.sampling.bad_words, self.tokenizer, self.info.vocab_size)
                job.request = self._requests.add(str(i), [job.token_ids], job.sampling, bad_word_ids=bans)
                waiting += job.request.sequences
        with BatchProgress(len(jobs), shown=use_tqdm) as progress, deferred_interrupt() as interrupt:
            progress.add(num_tokens=0, num_finished=sum(job.request is None for job in jobs))
            try:
                while len(self._requests):
                    interrupt.check()
                    self._step(waiting, progress)
            except Exception as error:
                self._closed = f"the engine failed: {error}"
                self._core.close()
                raise
            except KeyboardInterrupt:
                self._closed = "this LLM was interrupted in the middle of an engine step; make a new one"
                self._abort_all(jobs)
                self._closed = ""
                raise
        return [job.output() for job in jobs]

    def _step(self, waiting: deque[EngineRequest], progress: BatchProgress) -> None:
        """Add as many waiting requests as the core takes, step it once, collect the outputs."""
        outputs = self._feed(waiting)
        if self._core.has_work():
            outputs += self._core.step()
        processed = self._requests.process(outputs)
        for sequence_id, num_tokens in processed.to_stop:
            self._core.stop(sequence_id, num_tokens)
        for sequence_id in processed.to_abort:
            self._core.abort(sequence_id)
        done = [request for request in processed.updated if request.finished]
        for request in done:
            self._requests.remove(request)
        progress.add(num_tokens=sum(len(output.token_ids) for output in outputs), num_finished=len(done))

    def _feed(self, waiting: deque[EngineRequest]) -> list[EngineOutput]:
        """Add sequences until the core's queue is full; return an output for each that it refuses for good."""
        refused: list[EngineOutput] = []
        while waiting:
            request = waiting[0]
            try:
                self._core.add_request(request)
            except OverloadedError as error:
                if self._core.has_work():
                    break
                refused.append(_failed(request, error))
            except Exception as error:
                if not isinstance(error, InvalidArgumentError):
                    logger.exception("a request could not be added")
                refused.append(_failed(request, error))
            waiting.popleft()
        return refused

    def _abort_all(self, jobs: "list[_Job]") -> None:
        """Abort every sequence and step until the core has released them."""
        for job in jobs:
            if job.request is not None:
                for sequence_id in self._requests.remove(job.request):
                    self._core.abort(sequence_id)
        while self._core.has_work():
            self._core.step()


@dataclass(slots=True)
class _Job:
    """One prompt of a call and the request made of it."""

    sampling: SamplingParams
    prompt: str | None = None
    token_ids: Sequence[int] = ()
    request: LiveRequest | None = None
    error: str | None = None

    def output(self) -> RequestOutput:
        """Return the completions; none was taken before, so each is one delta."""
        deltas = self._failed() if self.request is None else sorted(self.request.take(), key=lambda delta: delta.index)
        return RequestOutput(
            prompt=self.prompt,
            prompt_token_ids=tuple(self.token_ids),
            outputs=tuple(_completion(delta) for delta in deltas),
            num_cached_tokens=max((delta.num_cached_tokens for delta in deltas), default=0),
            prompt_logprobs=self._prompt_logprobs(deltas),
        )

    def _prompt_logprobs(self, deltas: list[CompletionDelta]) -> tuple[TokenLogprobs | None, ...] | None:
        if self.sampling.prompt_logprobs is None or self.request is None:
            return None
        parts = [part for delta in deltas for part in delta.prompt_logprobs]
        return (None, *(entry for part in parts for entry in part.unpack()))

    def _failed(self) -> list[CompletionDelta]:
        return [
            CompletionDelta(index=i, finish_reason=FinishReason.ERROR, error=self.error) for i in range(self.sampling.n)
        ]


def _completion(delta: CompletionDelta) -> CompletionOutput:
    return CompletionOutput(
        index=delta.index,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=delta.logprobs,
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
        stats=delta.stats,
        error=delta.error,
    )


def _failed(request: EngineRequest, error: Exception) -> EngineOutput:
    return EngineOutput(request_id=request.request_id, finish_reason=FinishReason.ERROR, error=str(error))
