"""What the server is and knows: models, version, tokenizer, metrics, and why a request waits."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fastserve import __version__
from fastserve.errors import EngineDeadError
from fastserve.metrics.exposition import CONTENT_TYPE
from fastserve.server.errors import RETRY_AFTER_S, ApiError, bad_request
from fastserve.server.prompts import INLINE_TOKENS
from fastserve.server.protocols import EngineProtocol, TokenizerProtocol
from fastserve.server.requests.request_body import body_schema, read_request, state_of, warning_headers
from fastserve.server.requests.schema import DetokenizeRequest, TokenIds, TokenizeRequest
from fastserve.server.responses.sse import to_json
from fastserve.server.server_state import ServerState
from fastserve.types import EngineStats

# The engine answers between two iterations; Prometheus gives up after 10 s.
ENGINE_ANSWER_TIMEOUT_S = 5.0

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The one model of this server, under each of its names."""
    state = state_of(request)
    return JSONResponse({"object": "list", "data": [_model_card(state, name) for name in state.model_names]})


@router.get("/v1/models/{model:path}")
async def get_model(request: Request, model: str) -> Response:
    """One model by name."""
    state = state_of(request)
    state.check_model(model)
    return JSONResponse(_model_card(state, model))


def _model_card(state: ServerState, name: str) -> dict[str, object]:
    info = state.engine.info if state.engine is not None else None
    return {
        "id": name,
        "object": "model",
        "created": state.created,
        "owned_by": "fastserve",
        "root": info.model if info else None,
        "parent": None,
        "max_model_len": info.max_model_len if info else None,
    }


@router.get("/version")
async def version() -> Response:
    """Version of FastServe."""
    return JSONResponse({"version": __version__})


@router.post("/tokenize", openapi_extra=body_schema(TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """Token ids of a prompt or of a conversation."""
    state = state_of(request)
    engine, reader = state.ready_engine(), state.prompt_reader()
    body = await read_request(request, TokenizeRequest)
    state.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("send either prompt or messages", "prompt", "invalid_value")
    if body.prompt is not None:
        ids = await reader.tokenize(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        ids = await reader.tokenize_chat(
            body.template_rows(),
            body.template_options(state.template_defaults),
            add_special_tokens=body.add_special_tokens is True,
        )
    tokenizer = engine.tokenizer if body.return_token_strs else None
    if len(ids) <= INLINE_TOKENS:
        reply = _tokens_reply(ids, engine.info.max_model_len, tokenizer)
    else:
        reply = await state.text_threads.run(
            "writing the reply", _tokens_reply, ids, engine.info.max_model_len, tokenizer
        )
    return Response(reply, headers=warning_headers(request), media_type="application/json")


def _tokens_reply(ids: TokenIds, max_model_len: int, tokenizer: TokenizerProtocol | None) -> bytes:
    """The reply of /tokenize; with the names of the tokens when there is a tokenizer to ask."""
    names = None if tokenizer is None else [tokenizer.id_to_token(i) for i in ids]
    return to_json({"count": len(ids), "max_model_len": max_model_len, "tokens": ids, "token_strs": names})


@router.post("/detokenize", openapi_extra=body_schema(DetokenizeRequest))
async def detokenize(request: Request) -> Response:
    """Text of token ids, special tokens included."""
    state = state_of(request)
    reader = state.prompt_reader()
    body = await read_request(request, DetokenizeRequest)
    state.check_model(body.model)
    if body.tokens:
        reader.check_vocabulary(body.tokens, "tokens")
    text = await reader.decode(body.tokens, skip_special_tokens=False)
    return JSONResponse({"prompt": text}, headers=warning_headers(request))


@router.get("/load")
async def load(request: Request) -> Response:
    """How many requests to generate are unfinished, as vLLM has it."""
    return JSONResponse({"server_load": len(state_of(request).in_flight)})


@router.get("/docs", include_in_schema=False)
@router.get("/redoc", include_in_schema=False)
async def docs() -> Response:
    """Say why there is no such page."""
    message = "there is no interactive page: it would load scripts from other sites; /openapi.json describes the API"
    raise ApiError(404, message, kind="not_found_error", code="not_found")


@router.post("/v1/requests/{request_id}/abort")
async def abort(request: Request, request_id: str) -> Response:
    """End a running request; its client gets what there is, with finish_reason abort."""
    if not await state_of(request).ready_engine().abort(request_id):
        raise _unknown_request(request_id)
    return JSONResponse({"id": request_id, "object": "request.aborted", "aborted": True})


def _unknown_request(request_id: str) -> ApiError:
    message = f"no request with id {request_id[:200]!r} is known to the engine"
    return ApiError(404, message, kind="not_found_error", param="request_id", code="request_not_found")


@router.get("/v1/requests/{request_id}/explain")
async def explain(request: Request, request_id: str) -> Response:
    """Why a request waits or runs, from the scheduler."""
    engine = state_of(request).ready_engine()
    try:
        answer = await asyncio.wait_for(engine.explain(request_id), ENGINE_ANSWER_TIMEOUT_S)
    except TimeoutError:
        message = f"the engine did not answer within {ENGINE_ANSWER_TIMEOUT_S:g} s; see /livez"
        retry = {"Retry-After": str(RETRY_AFTER_S)}
        raise ApiError(503, message, kind="server_error", code="engine_silent", headers=retry) from None
    if answer is None:
        raise _unknown_request(request_id)
    return JSONResponse(answer)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus exposition; without the engine's part while it does not answer."""
    state = state_of(request)
    engine = state.engine
    text = state.exporter.render(engine.info if engine else None, await _stats(engine))
    return Response(text, media_type=CONTENT_TYPE)


async def _stats(engine: EngineProtocol | None) -> EngineStats | None:
    if engine is None or not engine.is_alive:
        return None
    try:
        return await asyncio.wait_for(engine.stats(), ENGINE_ANSWER_TIMEOUT_S)
    except (TimeoutError, EngineDeadError):
        return None
