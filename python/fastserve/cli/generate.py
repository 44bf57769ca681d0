"""`fastserve generate MODEL --prompt TEXT`"""

import argparse
import dataclasses
import json
import sys
from typing import Any

from fastserve.cli.flags import add_engine_flags, engine_config_of
from fastserve.cli.lazy import load
from fastserve.errors import InvalidArgumentError
from fastserve.types import RequestOutput, SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, prompts, sampling, and the flags of the engine."""
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; repeat for several")
    parser.add_argument("--prompt-file", metavar="FILE", help="one prompt per line; - = standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object per completion")
    group = parser.add_argument_group("How to choose tokens")
    group.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="maximum number of output tokens (default: 128)"
    )
    group.add_argument("--temperature", type=float, metavar="X", help="0 = greedy; default: the model's, else 1.0")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="X",
        help="probability of the nucleus to sample from, in (0, 1]; default: the model's, else 1.0",
    )
    group.add_argument(
        "--top-k",
        type=int,
        metavar="N",
        help="number of likeliest tokens to sample from, 0 = all; default: the model's, else 0",
    )
    group.add_argument("--n", type=int, default=1, metavar="N", help="number of completions per prompt (default: 1)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="stop string; repeat for several")
    group.add_argument("--ignore-eos", action="store_true", help="continue after the end-of-sequence token")
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print the completions of every prompt, in order; 1 when one failed."""
    prompts = _prompts(args)
    asked = {name: getattr(args, name) for name in ("max_tokens", "temperature", "top_p", "top_k")}
    given = {name: value for name, value in asked.items() if value is not None}
    given |= {"n": args.n, "stop": tuple(args.stop), "ignore_eos": args.ignore_eos}
    SamplingParams(**given)  # complains before the model is loaded
    config = engine_config_of(args)
    values: dict[str, Any] = {}
    for part in (config.model, config.cache, config.scheduler):
        values |= {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    model = values.pop("model")
    llm = load("fastserve.engine.llm:LLM")(model, **values)
    sampling = dataclasses.replace(llm.get_default_sampling_params(), **given)
    requests = llm.generate(prompts, sampling, use_tqdm=sys.stderr.isatty())
    for request in requests:
        _print(request, as_json=args.json)
    failed = any(output.error is not None for request in requests for output in request.outputs)
    return 1 if failed else 0


def _prompts(args: argparse.Namespace) -> list[str]:
    prompts = list(args.prompt or [])
    if args.prompt_file == "-":
        prompts += sys.stdin.read().splitlines()
    elif args.prompt_file:
        with open(args.prompt_file, encoding="utf-8") as file:
            prompts += file.read().splitlines()
    if not prompts:
        raise InvalidArgumentError("at least one prompt must be given, with --prompt or --prompt-file")
    return prompts


def _print(request: RequestOutput, *, as_json: bool) -> None:
    for output in request.outputs:
        if as_json:
            row = {
                "prompt": request.prompt,
                "index": output.index,
                "text": output.text,
                "finish_reason": output.finish_reason,
                "error": output.error,
                "prompt_tokens": len(request.prompt_token_ids),
                "completion_tokens": len(output.token_ids),
            }
            print(json.dumps(row, ensure_ascii=False))
        elif output.error is not None:
            print(f"error: {output.error}", file=sys.stderr)
        else:
            print(output.text)
