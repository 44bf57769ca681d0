"""`fastserve chat`: a conversation with a running server, in the terminal."""

import argparse
import json
import sys
from collections.abc import Iterator

import httpx

from fastserve.cli.api_key import client_key
from fastserve.errors import FastServeError

HELP = "an empty line or /exit ends, /reset forgets the conversation, Ctrl-C stops a reply"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the server is and how to ask it."""
    parser.epilog = HELP
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        metavar="URL",
        help="base URL of the server (default: http://127.0.0.1:8000)",
    )
    parser.add_argument(
        "--api-key",
        metavar="TEXT",
        help="API key, if the server has one; default: FASTSERVE_API_KEY or OPENAI_API_KEY from the environment",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message at the start of the conversation")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="maximum number of tokens of a reply; default: up to the context"
    )
    parser.add_argument("--temperature", type=float, metavar="X", help="0 = greedy; default: the server's")


def run(args: argparse.Namespace) -> int:
    """Read turns from standard input and print the replies as they come."""
    key = client_key(args.api_key)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=args.url, headers=headers, timeout=httpx.Timeout(10, read=None)) as client:
        try:
            return _converse(client, args)
        except httpx.HTTPError as error:
            raise FastServeError(f"{args.url} does not answer: {error}") from None


def _converse(client: httpx.Client, args: argparse.Namespace) -> int:
    opening = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(opening)
    for turn in _turns():
        if turn == "/reset":
            messages = list(opening)
            continue
        messages.append({"role": "user", "content": turn})
        body = {"messages": messages, "stream": True, "temperature": args.temperature, "max_tokens": args.max_tokens}
        reply = ""
        try:
            for text, is_content in _stream_reply(client, body):
                print(text, end="", flush=True)
                reply += text if is_content else ""
        except KeyboardInterrupt:  # leaving the stream makes the server abort it
            pass
        print()
        messages.append({"role": "assistant", "content": reply})
    return 0


def _turns() -> Iterator[str]:
    """Lines from the user until the end of input, an empty line or /exit."""
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        print(HELP)
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line in ("", "/exit"):
            return
        yield line


def _stream_reply(client: httpx.Client, body: dict[str, object]) -> Iterator[tuple[str, bool]]:
    """Texts of a streamed reply, and whether each is content; else it is reasoning.

    Raises:
        FastServeError: the server refused or failed.
    """
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise FastServeError(_error_text(response.read()))
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise FastServeError(event["error"]["message"])
            for choice in event["choices"]:
                for name in ("reasoning", "content"):
                    if text := choice["delta"].get(name):
                        yield text, name == "content"


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
