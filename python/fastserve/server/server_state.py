"""The state that all routes of one server share."""

import time
from collections.abc import Iterable

from fastserve.config import ServerConfig
from fastserve.errors import EngineDeadError, InvalidArgumentError
from fastserve.log import get_logger
from fastserve.metrics import MetricsExporter, RequestMetrics
from fastserve.server.errors import ApiError, DrainingError, LoadingError, RestartingError, refusal_reason
from fastserve.server.in_flight import InFlight
from fastserve.server.prompts import PromptReader, TextThreads
from fastserve.server.protocols import EngineProtocol
from fastserve.server.recorder import Recorder
from fastserve.server.requests.output_form import form_refused
from fastserve.server.side_processes.body_reader import BodyReader
from fastserve.server.side_processes.chat_renderer import ChatRenderer
from fastserve.server.side_processes.form_checker import FormChecker
from fastserve.tokenizer.chat_template import read_chat_template
from fastserve.types import StructuredOutputs

logger = get_logger(__name__)

MAX_NAMES_LOGGED = 256
GENERATION_PATHS = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/responses"})


class ServerState:
    """Engine, configuration and life cycle of a server; used from its event loop only.

    The engine may be attached after the server listens: until then requests are answered with 503.
    """

    def __init__(self, config: ServerConfig, model_name: str, engine: EngineProtocol | None = None) -> None:
        """Take a configuration.

        Raises:
            InvalidArgumentError: its settings do not go together, or name a file that cannot be read.
        """
        if config.enable_auto_tool_choice and config.tool_call_parser is None:
            raise InvalidArgumentError(
                "enable_auto_tool_choice needs tool_call_parser: how the model writes tool calls"
            )
        self.config = config
        self.model_names = tuple(dict.fromkeys(config.served_model_name)) or (model_name,)
        self.created = int(time.time())
        self.metrics = RequestMetrics(self.model_name)
        self.exporter = MetricsExporter(self.metrics, vllm_names=config.metrics_compat == "vllm")
        self.in_flight = InFlight()
        self.recorder = Recorder.of(config)
        self.text_threads = TextThreads()
        self.body_reader = BodyReader()
        self.draining = False
        self.restarting = False
        self.template_defaults = config.default_chat_template_kwargs or {}
        self._chat_template = None if config.chat_template is None else read_chat_template(config.chat_template)
        self._names_logged: set[str] = set()
        self.engine: EngineProtocol | None = None
        self._reader: PromptReader | None = None
        self._renderer: ChatRenderer | None = None
        self._form_checker: FormChecker | None = None
        if engine is not None:
            self.attach(engine)

    @property
    def model_name(self) -> str:
        """The name that replies and metrics have."""
        return self.model_names[0]

    def attach(self, engine: EngineProtocol) -> None:
        """Start serving with this engine."""
        self.engine = engine
        self.exporter.start_engine()
        self.restarting = False
        self._renderer = ChatRenderer(engine.tokenizer.chat_templates.with_template(self._chat_template))
        self._form_checker = FormChecker(engine)
        self._reader = PromptReader(engine, self.text_threads, self._renderer)

    def detach(self) -> None:
        """Let go of a dead engine that is being replaced: until `attach`, requests are answered with 503."""
        self.engine = self._reader = None
        self._close_processes()
        self.restarting = True

    def close(self) -> None:
        """Let go of the threads and processes for texts and bodies, and of the recording."""
        self.text_threads.close()
        self.body_reader.close()
        self._close_processes()
        if self.recorder is not None:
            self.recorder.close()

    def _close_processes(self) -> None:
        """End the side processes that depend on the model."""
        for owner in (self._renderer, self._form_checker):
            if owner is not None:
                owner.close()
        self._renderer = self._form_checker = None

    def ready_engine(self) -> EngineProtocol:
        """The engine, for work that needs it alive.

        Raises:
            LoadingError, RestartingError, DrainingError, EngineDeadError: there is none to use.
        """
        if self.engine is None and self.restarting:
            raise RestartingError("the engine failed and is being restarted; try again")
        if self.engine is None:
            raise LoadingError("the model is being loaded; try again")
        if self.draining:
            raise DrainingError("the server is shutting down; try another one")
        if not self.engine.is_alive:
            raise EngineDeadError("the engine has stopped; try another server, or later")
        return self.engine

    def prompt_reader(self) -> PromptReader:
        """What turns prompts into token ids; raises as `ready_engine` does."""
        self.ready_engine()
        assert self._reader is not None, "it comes with the engine"
        return self._reader

    async def check_form(self, form: StructuredOutputs | None, field: str) -> None:
        """Refuse a form that cannot be used, before the engine sees it.

        Args:
            form: of the output.
            field: of the body, in which it came.
        Raises:
            ApiError: 400; also as `ready_engine` raises and `FormChecker.check`.
        """
        if form is None:
            return
        self.ready_engine()
        assert self._form_checker is not None, "it comes with the engine"
        try:
            await self._form_checker.check(form)
        except InvalidArgumentError as error:
            raise form_refused(str(error), field) from None

    def count_refusal(self, path: str, error: ApiError) -> None:
        """Count a request to generate that was refused; other routes have no such counter."""
        if path in GENERATION_PATHS:
            self.metrics.count_rejection(refusal_reason(error))

    def log_ignored(self, names: Iterable[str]) -> None:
        """Log the names of unknown fields that requests had, each once."""
        for name in names:
            if name not in self._names_logged and len(self._names_logged) < MAX_NAMES_LOGGED:
                self._names_logged.add(name)
                logger.warning(
                    "requests have a field %.100r that is not known and is ignored (--strict-fields refuses it)", name
                )

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model than ours; an empty name is ours.

        Raises:
            ApiError: 404.
        """
        if name and name not in self.model_names:
            names = ", ".join(map(repr, self.model_names))
            message = f"the model {name[:200]!r} does not exist; this server has {names:.500}"
            raise ApiError(404, message, kind="not_found_error", param="model", code="model_not_found")
