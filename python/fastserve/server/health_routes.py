"""Liveness and readiness, answered without the engine and without an API key."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fastserve.server.requests.request_body import state_of
from fastserve.server.server_state import ServerState

router = APIRouter()


@router.get("/livez")
async def livez(request: Request) -> Response:
    """Answer 503 when the engine has died or its loop has made no step for `heartbeat_limit_s`: restart the process."""
    return _verdict(_liveness_fault(state_of(request)))


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Answer 503 while loading, restarting, draining or not alive: send requests elsewhere."""
    state = state_of(request)
    if state.restarting:
        return _verdict("restarting")
    if state.engine is None:
        return _verdict("loading")
    return _verdict("draining" if state.draining else _liveness_fault(state))


@router.get("/ping")
@router.post("/ping")
@router.get("/health")
async def health(request: Request) -> Response:
    """Answer 200 with an empty body while the engine works, as vLLM does; SageMaker asks at /ping."""
    state = state_of(request)
    healthy = state.engine is not None and _liveness_fault(state) is None
    return Response(status_code=200 if healthy else 503)


def _liveness_fault(state: ServerState) -> str | None:
    engine = state.engine
    if engine is None:
        return None  # neither loading nor restarting is a fault of this process
    if not engine.is_alive:
        return "engine dead"
    age_s = engine.heartbeat_age_s()
    limit_s = state.config.heartbeat_limit_s
    return f"engine loop has not turned for {age_s:.1f} s (limit {limit_s:g} s)" if age_s > limit_s else None


def _verdict(fault: str | None) -> Response:
    if fault is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": fault}, status_code=503)
