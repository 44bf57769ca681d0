"""Exceptions as HTTP statuses and OpenAI's error objects."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fastserve.errors import EngineDeadError, InvalidArgumentError, OverloadedError, RequestFailedError
from fastserve.log import get_logger
from fastserve.metrics import REFUSAL_REASONS

RETRY_AFTER_S = 1
DRAIN_RETRY_AFTER_S = 5
# No request makes an error reply or a log line much longer than this.
MAX_MESSAGE_CHARS = 1000
MAX_PARAM_CHARS = 100

logger = get_logger(__name__)


class ApiError(Exception):
    """An error with everything that its reply needs.

    Attributes:
        status: HTTP status.
        message: text for people: rule, value and remedy. Cut at `MAX_MESSAGE_CHARS`.
        kind: OpenAI's `type`.
        param: the request field at fault, if there is one.
        code: code for programs.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = _cut(message, MAX_MESSAGE_CHARS)
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = None if param is None else _cut(param, MAX_PARAM_CHARS)
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the error object as JSON."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def response(self) -> Response:
        """Return the reply for a request whose response has not started."""
        return Response(self.body(), self.status, self.headers, media_type="application/json")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


class DrainingError(OverloadedError):
    """The server is shutting down and accepts no new requests."""


class LoadingError(OverloadedError):
    """The model is still being loaded."""


class RestartingError(OverloadedError):
    """The engine died and a new one is being started."""


class DeadlineError(RequestFailedError):
    """The request's own deadline passed before it finished."""


class ClientGoneError(Exception):
    """The client closed the connection; no reply can reach it."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return an error with status 400."""
    return ApiError(400, message, param=param, code=code)


def context_overflow(limit_tokens: int, however: str, param: str) -> ApiError:
    """Return a 400 in the words by which clients recognise that a prompt exceeds the context.

    Args:
        limit_tokens: limit of prompt and output together.
        however: what does not fit, and the remedy.
        param: the field at fault.
    """
    message = f"This model's maximum context length is {limit_tokens} tokens. However, {however}"
    return bad_request(message, param, "context_length_exceeded")


def prompt_overflow(limit_tokens: int, length: str, param: str) -> ApiError:
    """Return the error for a prompt that alone exceeds the context; `length` is its length, such as "9010 tokens".

    litellm looks for "maximum context length is", langchain-openai for "prompt is too long".
    """
    however = f"the prompt is too long: {param} has {length}, which leaves no room for output; shorten {param}"
    return context_overflow(limit_tokens, however, param)


def to_api_error(error: Exception) -> ApiError:
    """Describe any exception as an API error; an unknown one becomes a 500 without its text, and is logged."""
    match error:
        case ApiError():
            return error
        case ClientGoneError():
            return ApiError(499, "the client closed the connection")  # is not sent
        case HTTPException():
            return _from_http(error)
        case DrainingError():
            return _unavailable(str(error), "draining")
        case LoadingError():
            return _unavailable(str(error), "loading")
        case RestartingError():
            return _unavailable(str(error), "restarting")
        case OverloadedError():
            retry = {"Retry-After": str(RETRY_AFTER_S)}
            return ApiError(429, str(error), kind="rate_limit_error", code="overloaded", headers=retry)
        case EngineDeadError():
            # By then the server or its supervisor has either restarted the engine or given up.
            retry = {"Retry-After": str(DRAIN_RETRY_AFTER_S)}
            return ApiError(503, str(error), kind="server_error", code="engine_dead", headers=retry)
        case DeadlineError():
            # An automatic retry would only miss the same deadline again.
            no_retry = {"x-should-retry": "false"}
            return ApiError(504, str(error), kind="timeout_error", code="deadline_exceeded", headers=no_retry)
        case RequestFailedError():
            return ApiError(500, str(error), kind="server_error", code="request_failed")
        case InvalidArgumentError():
            return bad_request(str(error), param=_leading_field(str(error)), code="invalid_value")
    logger.error("unexpected error", exc_info=error)
    return ApiError(500, "internal error; the server's log has the details", kind="server_error", code="internal")


def refusal_reason(error: ApiError) -> str:
    """Return the metric label of a refused request: one of `REFUSAL_REASONS`."""
    match error.status:
        case 401:
            return "unauthorized"
        case 404:
            return "not_found"
        case 408:
            return "body_timeout"
        case 413:
            return "too_large"
        case 429 | 503 if error.code in REFUSAL_REASONS:
            return error.code
        case status if status >= 500:
            return "internal"
    return "context_length" if error.code == "context_length_exceeded" else "invalid_request"


def _unavailable(message: str, code: str) -> ApiError:
    retry = {"Retry-After": str(DRAIN_RETRY_AFTER_S)}
    return ApiError(503, message, kind="service_unavailable_error", code=code, headers=retry)


def _from_http(error: HTTPException) -> ApiError:
    """Describe an error of the router: no such route, wrong method."""
    phrase = HTTPStatus(error.status_code).phrase
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    code = phrase.lower().replace(" ", "_")
    return ApiError(error.status_code, error.detail or phrase, kind=kind, code=code, headers=error.headers)


def _leading_field(message: str) -> str | None:
    """Return the field that a message of `SamplingParams` starts with: "top_p must be ..." -> "top_p"."""
    first, _, rest = message.partition(" ")
    return first if rest.startswith("must ") and first.isidentifier() else None
