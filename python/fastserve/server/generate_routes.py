"""`/v1/completions` and `/v1/chat/completions`: from a request body to a running generation."""

import asyncio
import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from fastserve.server.chat_output import ChatOutput
from fastserve.server.errors import bad_request
from fastserve.server.parsers.message_format import MessageFormat
from fastserve.server.requests.request_body import body_schema, read_request, reply_headers, sent_id, state_of
from fastserve.server.requests.responses_request import RESPONSES_SCHEMA, ResponsesRequest
from fastserve.server.requests.schema import MAX_CHOICES, ChatRequest, CompletionRequest, GenerationRequest, TokenIds
from fastserve.server.responses.formatter import ChatFormatter, CompletionFormatter
from fastserve.server.responses.generation import Generation
from fastserve.server.responses.response import GenerationResponse
from fastserve.server.responses.responses_formatter import ResponsesFormatter
from fastserve.server.server_state import ServerState
from fastserve.types import SamplingParams

router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def create_completion(request: Request) -> Response:
    """Continue one or more prompts."""
    arrival_s = time.monotonic()
    state = state_of(request)
    state.ready_engine()
    body = await read_request(request, CompletionRequest)
    state.check_model(body.model)
    stream = body.stream_settings()
    sampling = body.sampling_params(state.ready_engine().sampling_defaults)
    await state.check_form(sampling.structured_outputs, body.form_field())
    reader, texts = state.prompt_reader(), body.prompts()
    _check_choices(len(texts), sampling.n)
    keep_last = reader.truncation(body.truncate_prompt_tokens, sampling.max_tokens)
    prompts = []
    for text in texts:
        prompts.append(await reader.read(text, add_special_tokens=body.add_special_tokens, keep_last=keep_last))
        await asyncio.sleep(0)  # there may be a thousand, each the work of a millisecond: let other tasks run
    shown = texts if keep_last is None else prompts
    echoes = [await _echo(state, text) for text in shown] if body.echo else None
    generation = _generation(request, body, prompts, sampling, arrival_s)
    formatter = CompletionFormatter(state, generation, body, echoes)
    return GenerationResponse(state, generation, formatter, stream, reply_headers(request))


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    arrival_s = time.monotonic()
    state = state_of(request)
    state.ready_engine()
    body = await read_request(request, ChatRequest)
    generation, form = await _chat(request, body, arrival_s)
    formatter = ChatFormatter(state, generation, body, form)
    return GenerationResponse(state, generation, formatter, body.stream_settings(), reply_headers(request))


@router.post(
    "/v1/responses",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": RESPONSES_SCHEMA}}, "required": True}},
)
async def create_response(request: Request) -> Response:
    """Answer a conversation, in the form of OpenAI's Responses API."""
    arrival_s = time.monotonic()
    state = state_of(request)
    state.ready_engine()
    body = await read_request(request, ResponsesRequest)
    generation, form = await _chat(request, body, arrival_s)
    formatter = ResponsesFormatter(state, generation, body, form)
    return GenerationResponse(state, generation, formatter, body.stream_settings(), reply_headers(request))


async def _chat(request: Request, body: ChatRequest, arrival_s: float) -> tuple[Generation, MessageFormat]:
    """The generation of an answer, and how its text is to be read."""
    state = state_of(request)
    state.check_model(body.model)
    body.stream_settings()  # refuses options that do not go together before anything is done
    sampling = body.sampling_params(state.ready_engine().sampling_defaults)
    await state.check_form(sampling.structured_outputs, body.form_field())
    output = ChatOutput(state, body)
    reader = state.prompt_reader()
    prompt, text = await reader.read_chat(
        body.template_rows(),
        output.template_options(),
        add_special_tokens=body.add_special_tokens,
        keep_last=reader.truncation(body.truncate_prompt_tokens, sampling.max_tokens),
    )
    form = output.message_format(text)
    constrained = output.constrained(sampling, form)
    if constrained.structured_outputs != sampling.structured_outputs:
        await state.check_form(constrained.structured_outputs, "tools" if body.tools else body.form_field())
    generation = _generation(request, body, [prompt], constrained, arrival_s)
    if form.reasons:
        generation.usage.count_reasoning(form.begun, state.ready_engine().tokenizer)
    return generation, form


def _check_choices(num_prompts: int, num_samples: int) -> None:
    if num_prompts * num_samples > MAX_CHOICES:
        message = f"prompt and n must ask for at most {MAX_CHOICES} completions, got {num_prompts} x {num_samples}"
        raise bad_request(f"{message}; send several requests", "n", "invalid_value")


def _generation(
    request: Request,
    body: GenerationRequest,
    prompts: Sequence[TokenIds],
    sampling: SamplingParams,
    arrival_s: float,
) -> Generation:
    state = state_of(request)
    reader = state.prompt_reader()
    for prompt in prompts:
        reader.check_room(prompt, body.max_tokens_asked(), sampling.min_tokens)
    reader.check_vocabulary(list(sampling.logit_bias), "logit_bias")
    reader.check_vocabulary(list(sampling.allowed_token_ids or ()), "allowed_token_ids")
    return Generation(
        state,
        prompts,
        sampling,
        body.scheduling_params(),
        request_id=body.request_id or _request_id(sent_id(request), body.id_prefix, state),
        arrival_s=arrival_s,
    )


def _request_id(sent: str | None, prefix: str, state: ServerState) -> str:
    """The client's name for a request behind the prefix, as in vLLM; with an ending where it is in use."""
    if sent is None:
        return prefix + uuid.uuid4().hex
    return prefix + sent if prefix + sent not in state.in_flight else f"{prefix}{sent}-{uuid.uuid4().hex}"


async def _echo(state: ServerState, prompt: str | TokenIds) -> str:
    if isinstance(prompt, str):
        return prompt
    return await state.prompt_reader().decode(prompt, skip_special_tokens=True)
