"""Flags that say which server is asked, and how; named as `vllm bench serve` names them."""

import argparse
import json
from typing import Any

from fastserve.cli.api_key import client_key
from fastserve.cli.lazy import load
from fastserve.errors import InvalidArgumentError
from fastserve.workload import has_synthetic_lengths


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `target_of` and `load_options_of` read."""
    group = parser.add_argument_group("Server")
    group.add_argument("--base-url", metavar="URL", help="base URL of the server; default: from --host and --port")
    group.add_argument("--host", default="127.0.0.1", metavar="TEXT", help="host of the server (default: 127.0.0.1)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="port of the server (default: 8000)")
    group.add_argument(
        "--endpoint",
        default="/v1/completions",
        metavar="PATH",
        help="path of the completions route (default: /v1/completions)",
    )
    group.add_argument(
        "--model", metavar="NAME", help="name of the model in the API (default: the first that the server lists)"
    )
    group.add_argument(
        "--api-key",
        metavar="TEXT",
        help="key to send as a bearer token; default: FASTSERVE_API_KEY or OPENAI_API_KEY from the environment",
    )
    group.add_argument(
        "--request-timeout-s",
        type=float,
        default=3600.0,
        metavar="X",
        help="count a request as failed when it takes longer [seconds] (default: 3600)",
    )
    group = parser.add_argument_group("Requests")
    group.add_argument(
        "--tokenizer", metavar="FOLDER", help="tokenizer of the model, for its vocabulary and for text datasets"
    )
    group.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="synthetic prompts use ids below this (default: the tokenizer's vocabulary, else 1000)",
    )
    group.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        help="ask for exactly the output lengths of the workload (default: for synthetic ones)",
    )
    group.add_argument("--temperature", type=float, default=0.0, metavar="X", help="0 = greedy (default: 0)")
    group.add_argument("--extra-body", metavar="JSON", help="additional fields of every request, as a JSON object")
    group.add_argument(
        "--num-warmups",
        type=int,
        default=1,
        metavar="N",
        help="number of warm-up requests, which are not measured (default: 1)",
    )


def target_of(args: argparse.Namespace, base_url: str | None = None) -> Any:
    """The `Target`; `base_url` instead of the one of the flags."""
    host = f"[{args.host}]" if ":" in args.host else args.host
    url = base_url or args.base_url or f"http://{host}:{args.port}"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgumentError(f"the base URL must begin with http:// or https://, got {url!r}")
    if not args.request_timeout_s > 0:
        raise InvalidArgumentError(f"--request-timeout-s must be above 0, got {args.request_timeout_s}")
    return load("fastserve.bench.client:Target")(
        base_url=url.rstrip("/"),
        model=args.model or "",
        endpoint=args.endpoint,
        api_key=client_key(args.api_key),
        timeout_s=args.request_timeout_s,
    )


def load_options_of(args: argparse.Namespace, *, max_concurrency: int | None = None) -> Any:
    """The `LoadOptions`.

    Raises:
        InvalidArgumentError: a value is out of range.
    """
    if args.num_warmups < 0:
        raise InvalidArgumentError(f"--num-warmups must be at least 0, got {args.num_warmups}")
    sizes = {"vocab_size": size} if (size := _vocab_size(args)) is not None else {}
    return load("fastserve.bench.load:LoadOptions")(
        ignore_eos=has_synthetic_lengths(args) if args.ignore_eos is None else args.ignore_eos,
        temperature=args.temperature,
        max_concurrency=max_concurrency,
        extra_body=_extra_body(args.extra_body),
        **sizes,
    )


def _vocab_size(args: argparse.Namespace) -> int | None:
    if args.vocab_size is not None or args.tokenizer is None:
        size: int | None = args.vocab_size
        return size
    return int(load("fastserve.bench.text_dataset:open_tokenizer")(args.tokenizer).vocab_size)


def _extra_body(text: str | None) -> dict[str, object]:
    if text is None:
        return {}
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise InvalidArgumentError(f"--extra-body must be a JSON object, got {text!r:.200}")
    return fields
