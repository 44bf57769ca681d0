"""`/v1/completions` and `/v1/chat/completions`: from a request body to a running generation."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from fastserve.server.body import body_schema, read_request, serving_of
from fastserve.server.errors import bad_request
from fastserve.server.generation import Generation, GenerationPlan, PromptJob
from fastserve.server.replies import ChatReply, CompletionReply, ReplyFormat
from fastserve.server.respond import GenerationResponse
from fastserve.server.schema import ChatRequest, CompletionRequest, TokenIds
from fastserve.server.serving import Serving
from fastserve.types import SamplingDefaults, SamplingParams

DEFAULT_COMPLETION_TOKENS = 16

router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def create_completion(request: Request) -> Response:
    """Continue one or more prompts."""
    arrival_s = time.monotonic()
    serving = serving_of(request)
    serving.ready_engine()
    body = await read_request(request, CompletionRequest)
    serving.check_model(body.model)
    if body.echo and body.logprobs is not None:
        raise bad_request("echo with logprobs is not supported; leave one out", "echo", "unsupported")
    # Checked once before the prompts are tokenized; each job then gets its own max_tokens.
    sampling = body.sampling(_defaults(serving), max_tokens=body.max_tokens, logprobs=body.logprobs)
    reader = serving.prompt_reader()
    prompts = body.prompts()
    token_ids = [await reader.read(prompt, add_special_tokens=body.add_special_tokens) for prompt in prompts]
    jobs = _jobs(serving, sampling, token_ids, DEFAULT_COMPLETION_TOKENS)
    plan = _plan(body, jobs, "cmpl-", arrival_s)
    echoes = [await _echo(serving, prompt) for prompt in prompts] if body.echo else None
    return _start(serving, plan, CompletionReply(plan, serving.model_name, serving.ready_engine().tokenizer, echoes))


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    arrival_s = time.monotonic()
    serving = serving_of(request)
    serving.ready_engine()
    body = await read_request(request, ChatRequest)
    serving.check_model(body.model)
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        message = "max_tokens and max_completion_tokens are two names of one limit; send one"
        raise bad_request(message, "max_completion_tokens", "invalid_value")
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    sampling = body.sampling(_defaults(serving), max_tokens=asked, logprobs=body.num_logprobs())
    ids = await serving.prompt_reader().read_chat(
        body.template_rows(),
        add_generation_prompt=body.add_generation_prompt,
        add_special_tokens=body.add_special_tokens,
    )
    plan = _plan(body, _jobs(serving, sampling, [ids], _defaults(serving).max_tokens), "chatcmpl-", arrival_s)
    return _start(serving, plan, ChatReply(plan, serving.model_name, serving.ready_engine().tokenizer))


def _start(serving: Serving, plan: GenerationPlan, reply: ReplyFormat) -> Response:
    return GenerationResponse(
        serving, Generation(serving.ready_engine(), plan, serving.metrics, serving.recorder), reply
    )


def _defaults(serving: Serving) -> SamplingDefaults:
    return serving.ready_engine().sampling_defaults


def _jobs(
    serving: Serving, sampling: SamplingParams, prompts: Sequence[TokenIds], default_tokens: int | None
) -> tuple[PromptJob, ...]:
    reader = serving.prompt_reader()
    jobs = []
    for ids in prompts:
        max_tokens = reader.fit_max_tokens(ids, sampling.max_tokens, default_tokens, sampling.min_tokens)
        max_tokens = min(max_tokens, _defaults(serving).max_tokens_limit or max_tokens)
        jobs.append(PromptJob(token_ids=ids, sampling=replace(sampling, max_tokens=max_tokens)))
    return tuple(jobs)


def _plan(
    body: CompletionRequest | ChatRequest, jobs: tuple[PromptJob, ...], prefix: str, arrival_s: float
) -> GenerationPlan:
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options", "invalid_value")
    options = body.stream_options
    return GenerationPlan(
        request_id=body.request_id or prefix + uuid.uuid4().hex,
        jobs=jobs,
        created=int(time.time()),
        arrival_s=arrival_s,
        priority=body.priority,
        cache_salt=body.cache_salt,
        length_class=body.length_class,
        deadline_s=body.deadline_s,
        max_pause_s=body.max_pause_s,
        stream=body.stream,
        include_usage=options is not None and options.include_usage,
        continuous_usage=options is not None and options.include_usage and options.continuous_usage_stats,
        include_events=options is not None and options.include_events,
    )


async def _echo(serving: Serving, prompt: str | TokenIds) -> str:
    if isinstance(prompt, str):
        return prompt
    return await serving.prompt_reader().decode(prompt, skip_special_tokens=True)
