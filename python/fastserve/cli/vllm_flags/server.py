"""Flags of `vllm serve` about the HTTP server."""

from fastserve.cli.vllm_flags.flag import ANY, only, only_off, only_on, refused, same

TEMPLATES = "use --chat-template; requests never bring a template of their own"
NO_PLUGINS = "code from a plugin is never run; --tool-call-parser has the formats"
LOG = "use --log-level and --json-logs"
NO_ACCESS_LOG = "no access log is written; leave it out"
NO_PROMPTS_LOGGED = "prompts and outputs are never logged; --record FILE writes arrival and lengths of requests"
HEAD_LIMITS = "the limits are 64 KiB and 128 headers; leave it out"
ONE_FRONT_END = "one process serves HTTP; run several servers behind a load balancer"
OTHER_APIS = "only OpenAI's API is served (docs/serving.md); leave it out"
FINGERPRINT = "replies have no system_fingerprint; leave it out"
NO_PAGES = "there are no documentation pages; /openapi.json describes the API"

SERVER = (
    same("host", "default 127.0.0.1; vLLM listens on all addresses"),
    same("port"),
    same("uds", "--host and --port do not count then"),
    same("api-key", "required on every route except the health routes"),
    same("shutdown-timeout", "default 25, never less than 3 s"),
    same("ssl-keyfile"),
    same("ssl-certfile"),
    same("ssl-ca-certs"),
    same("ssl-cert-reqs"),
    same("ssl-ciphers"),
    only_off("enable-ssl-refresh", "start the server again after a change of its certificate"),
    same("allow-credentials"),
    same("allowed-origins", "a JSON list, as in vLLM, or several words"),
    same("allowed-methods"),
    same("allowed-headers"),
    same("root-path"),
    refused("middleware", "code from a plugin is never run; use a reverse proxy"),
    same("uvicorn-log-level", "default `warning`; `trace`, which logs keys, is refused"),
    only_on("disable-uvicorn-access-log", NO_ACCESS_LOG),
    only("disable-access-log-for-endpoints", ANY, NO_ACCESS_LOG),
    only_on("enable-request-id-headers", "generation replies always have the header; leave it out"),
    same("disable-fastapi-docs", "there is /openapi.json, and no page"),
    only_off("enable-offline-docs", NO_PAGES),
    refused("h11-max-incomplete-event-size", HEAD_LIMITS),
    refused("h11-max-header-count", HEAD_LIMITS),
    only_off("headless", ONE_FRONT_END),
    only("api-server-count -asc", "1", ONE_FRONT_END),
    only_off("grpc", OTHER_APIS),
    refused("grpc-port", OTHER_APIS),
    same("config", "the command line and FASTSERVE_ variables win"),
    only_off("fail-on-environ-validation", "a bad value in a FASTSERVE_ variable always stops the start; leave it out"),
    only_off("enable-flash-late-interaction", "only models that generate text are served; leave it out"),
)  # fmt: skip

API = (
    same("chat-template", "a file, the text itself, or `tool_use`"),
    only("chat-template-content-format", "string", "text parts of a message are joined; leave it out"),
    only_off("trust-request-chat-template", TEMPLATES),
    same("default-chat-template-kwargs"),
    only("response-role", "assistant", "replies always have the role assistant; leave it out"),
    only_off("return-tokens-as-token-ids", "send return_token_ids in the request"),
    same("enable-auto-tool-choice"),
    same("exclude-tools-when-tool-choice-none"),
    same("tool-call-parser", "`hermes`, `llama3_json` (= `llama4_json`), `mistral`, `json`"),
    only("tool-parser-plugin", "", NO_PLUGINS),
    only("tool-strict-level", "auto", "each tool says so itself (strict: true); leave it out"),
    refused("tool-server", "the client runs the tools; leave it out"),
    only_on("enable-prompt-tokens-details", "usage always includes them; leave it out"),
    refused("enable-per-request-metrics", "every reply has timings in usage.fastserve; leave it out", shape="switch"),
    only_off("enable-server-load-tracking", "read fastserve:num_requests_running from /metrics"),
    only_off("enable-force-include-usage", "send stream_options.include_usage in the request"),
    only("sse-keep-alive-interval", "0", "send stream_options.include_events in the request for comments during pauses"),
    only_off("enable-tokenizer-info-endpoint", "/tokenize and /detokenize serve the tokenizer"),
    refused("cohere-is-reasoning-model", OTHER_APIS, shape="switch"),
    refused("cohere-format", OTHER_APIS),
    refused("anthropic-disabled-thinking-effort", OTHER_APIS),
    only_off("tokens-only", "send return_token_ids in the request"),
    only_off("enable-scale-out", OTHER_APIS),
    only("fingerprint-mode", "none", FINGERPRINT),
    refused("fingerprint-value", FINGERPRINT),
)  # fmt: skip

LOGGING = (
    same("log-level"),
    only("logging-config", "{}", LOG),
    refused("log-config-file", LOG),
    only_off("enable-log-requests", NO_PROMPTS_LOGGED),
    only("max-log-len", "0", NO_PROMPTS_LOGGED),
    only_off("enable-log-outputs", NO_PROMPTS_LOGGED),
    only_off("enable-log-deltas", NO_PROMPTS_LOGGED),
    only_off("log-error-stack", "server faults are always logged with a traceback; leave it out"),
)

# No longer flags of vLLM; commands in use still have them.
FORMER_SERVER = (
    only_on("disable-log-requests", NO_PROMPTS_LOGGED),
    only_off("disable-frontend-multiprocessing", "the engine always has its own process; leave it out"),
)
