"""What may take long runs in a thread that releases the GIL, or in a process that can be killed; never on the loop."""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from fastserve.config import EngineConfig, ServerConfig
from fastserve.server import run
from fastserve.server.prompts import INLINE_TEXT_CHARS, INLINE_TOKENS
from fastserve.server.requests import request_body
from fastserve.server.side_processes import chat_renderer
from fastserve.tokenizer import ChatTemplates
from tests.unit.server.conftest import live_server, until
from tests.unit.server.fake_engine import INFO, FakeEngine, FakeTokenizer
from tests.unit.server.process import server_process, wait_ready

LONG = ServerConfig(max_body_bytes=8 << 20)


class RecordingTokenizer(FakeTokenizer):
    """Remembers which thread did what."""

    max_chars_per_token = None

    def __init__(self) -> None:
        self.threads: dict[str, set[threading.Thread]] = {"encode": set(), "decode": set(), "id_to_token": set()}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        self.threads["encode"].add(threading.current_thread())
        return super().encode(text, add_special_tokens)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        self.threads["decode"].add(threading.current_thread())
        return super().decode(ids, skip_special_tokens)

    def id_to_token(self, token_id: int) -> str:
        self.threads["id_to_token"].add(threading.current_thread())
        return super().id_to_token(token_id)


@pytest.fixture
async def roomy():
    """A server that takes long bodies, whose tokenizer records its threads."""
    engine = FakeEngine()
    engine.tokenizer = RecordingTokenizer()
    async with live_server(engine, LONG) as server:
        yield server


def renderers(live) -> list[int]:
    """Process ids of those that render chats."""
    return live.serving.prompt_reader()._renderer.pids()


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("path", "body", "work"),
    [
        ("/v1/completions", {"prompt": "x" * (INLINE_TEXT_CHARS + 1)}, "encode"),
        ("/v1/completions", {"prompt": ["hi", "x" * 300_000]}, "encode"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 300_000}]}, "encode"),
        ("/tokenize", {"prompt": "x" * 300_000, "return_token_strs": True}, "encode"),
        ("/tokenize", {"prompt": "x" * 300_000, "return_token_strs": True}, "id_to_token"),
        ("/detokenize", {"tokens": [97] * (INLINE_TOKENS + 1)}, "decode"),
        ("/detokenize", {"tokens": [97] * 100_000}, "decode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_long_texts_and_lists_of_ids_are_worked_on_in_other_threads(roomy, path, body, work):
    roomy.engine.tokenizer.threads[work].clear()
    assert (await roomy.post(path, **body)).status_code in (200, 400)
    threads = roomy.engine.tokenizer.threads[work] - {threading.main_thread()}
    assert len(threads) == 1
    if "hi" not in str(body)[:30]:  # short texts need no thread
        assert roomy.engine.tokenizer.threads[work] == threads


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": [1] * 1_000_000}, 400),
        ("/v1/completions", {"prompt": [[]] * 1_000_000}, 400),
        ("/v1/completions", {"prompt": "x" * 4_000_000}, 400),
        ("/v1/completions", {"prompt": "hi", "metadata": [0] * 1_000_000}, 200),
        ("/v1/completions", {"prompt": "hi"} | {f"f{i}": 0 for i in range(300_000)}, 400),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 100_000}, 400),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 100_000}]},
            400,
        ),
        ("/tokenize", {"prompt": "x" * 2_000_000}, 400),
        ("/detokenize", {"tokens": [1] * 1_000_000}, 400),
    ],
)
async def test_a_long_body_is_neither_parsed_nor_checked_in_the_server(roomy, monkeypatch, path, body, status):
    def parse(*args: object) -> None:
        raise AssertionError("parsed in the server")

    monkeypatch.setattr(request_body, "parse_object", parse)
    monkeypatch.setattr(request_body, "parse_request", parse)
    reply = await roomy.post(path, **body)
    assert reply.status_code == status
    assert len(reply.content) < 1000


async def test_a_long_body_that_is_right_reaches_the_engine_as_it_is(roomy):
    fields = {"temperature": 0.5, "stop": ["a", "é"], "seed": 7, "max_tokens": 3, "n": 2, "priority": -1}
    for padding in ("", "x" * 20_000):
        assert (await roomy.complete(prompt=[1, 2, 3], user=padding, **fields)).status_code == 200
        row = {"role": "developer", "content": [{"type": "text", "text": "é\n"}, {"type": "text", "text": "b"}]}
        assert (await roomy.post("/v1/chat/completions", messages=[row], user=padding, **fields)).status_code == 200
    calls = [(call.prompts, call.sampling, call.scheduling) for call in roomy.engine.calls]
    assert calls[:2] == calls[2:]


async def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized(roomy):
    roomy.engine.tokenizer.max_chars_per_token = 2
    longest = 2 * (INFO.max_model_len - 1)
    for path, body, param in (
        ("/v1/completions", {"prompt": "x" * (longest + 1)}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * longest}]}, "messages"),
    ):
        error = (await roomy.post(path, **body)).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert "maximum context length is 512 tokens" in error["message"]
        assert "characters, which are at least 5" in error["message"]
    assert not roomy.engine.tokenizer.threads["encode"]
    await roomy.complete(prompt="x" * longest)
    assert roomy.engine.tokenizer.threads["encode"], "what may fit is tokenized"


async def test_a_template_that_runs_away_is_killed_and_hurts_its_own_request_alone(live, monkeypatch):
    assert (await live.chat()).status_code == 200
    before = renderers(live)
    assert (await live.chat()).status_code == 200
    assert set(renderers(live)) >= set(before), "one process renders many chats"
    # Others chat while it runs: there are two processes, and only one is stuck.
    bad = asyncio.create_task(live.chat("forever"))
    while len(renderers(live)) < 2:
        assert (await live.chat()).status_code == 200
    assert (await live.complete(prompt="x" * 2000)).json()["error"]["code"] == "context_length_exceeded"
    for pid in renderers(live):
        os.kill(pid, signal.SIGKILL)
    reply = await bad
    assert (
        reply.status_code == 500 and "the process for rendering the chat template" in reply.json()["error"]["message"]
    )


async def test_a_template_that_takes_too_long_is_ended_with_its_process(live, monkeypatch):
    assert (await live.chat()).status_code == 200
    (pid,) = renderers(live)
    monkeypatch.setattr(chat_renderer, "RENDER_LIMIT_S", 0.2)
    reply = await live.chat("forever")
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "timeout"
    assert has_ended(pid) and not renderers(live)
    monkeypatch.undo()
    assert (await live.chat()).status_code == 200


async def test_a_process_that_ended_while_it_had_nothing_to_do_is_replaced(live):
    assert (await live.chat()).status_code == 200
    (pid,) = renderers(live)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: has_ended(pid))
    assert (await live.chat()).status_code == 200
    assert renderers(live) != [pid]


async def test_templates_that_hold_all_processes_are_an_overload_of_the_others(live, monkeypatch):
    monkeypatch.setattr(chat_renderer, "RENDER_LIMIT_S", 1.0)
    count = chat_renderer.NUM_PROCESSES
    replies = await asyncio.gather(*(live.chat("forever") for _ in range(count + 2)))
    assert sorted(reply.status_code for reply in replies) == [400] * count + [429] * 2


async def test_a_template_that_asks_for_any_memory_is_refused_and_its_process_lives_on(live):
    assert (await live.chat()).status_code == 200
    before = renderers(live)
    reply = await live.chat("huge")
    assert reply.status_code == 400 and "chat template needs more memory" in reply.json()["error"]["message"]
    assert (await live.chat()).status_code == 200
    assert set(renderers(live)) >= set(before)


async def test_a_template_that_does_not_end_in_unicode_or_in_reason_is_refused():
    for source, words in (
        ("{{ '\\ud800' }}", "valid Unicode"),
        ("{{ raise_exception('\\ud800' * 10000) }}", "???..."),
        ("{{ messages[0].content * 100000 }}", "context length"),
        ("{% for", "does not accept"),
    ):
        engine = FakeEngine()
        engine.tokenizer = FakeTokenizer()
        engine.tokenizer.chat_templates = ChatTemplates({"default": source}, {})
        async with live_server(engine, ServerConfig()) as live:
            reply = await live.chat()
            assert reply.status_code == 400
            assert words in reply.json()["error"]["message"] and len(reply.content) < 2000


async def test_a_side_process_inherits_nothing_but_its_socket_and_the_output(live):
    await live.chat()
    (pid,) = renderers(live)
    assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2"]


async def test_an_engine_that_is_replaced_takes_its_renderers_along(live):
    await live.chat()
    (pid,) = renderers(live)
    live.serving.detach()
    assert has_ended(pid)
    live.serving.attach(live.engine)
    assert (await live.chat()).status_code == 200


def chat_forever(base_url: object) -> threading.Thread:
    """A client that waits for a chat whose template never ends."""

    def run() -> None:
        with httpx.Client(base_url=base_url, timeout=60) as client:
            body = {"messages": [{"role": "user", "content": "forever"}]}
            with contextlib.suppress(httpx.HTTPError):
                client.post("/v1/chat/completions", json=body)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def child_of(pid: int) -> int:
    """The process that renders for a server, once it has started to."""
    while True:
        for child in Path(f"/proc/{pid}/task").glob("*/children"):
            for found in child.read_text().split():
                if b"template_process" in Path(f"/proc/{found}/cmdline").read_bytes():
                    return int(found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_at_once_whatever_a_template_does_and_leaves_no_process(number):
    with server_process("slow", 60) as (process, client):
        wait_ready(client)
        thread = chat_forever(client.base_url)
        renderer = child_of(process.pid)
        process.send_signal(number)
        # Well before the 5 s after which the template would be ended, had the signal not come.
        assert process.wait(4) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        thread.join(20)
        while not has_ended(renderer):
            pass


def test_no_collection_of_garbage_walks_what_was_loaded(monkeypatch):
    async def start(config: EngineConfig, *, progress: object) -> FakeEngine:
        return FakeEngine()

    frozen = []

    def serve(start_engine, config: ServerConfig, model_name: str) -> int:
        asyncio.run(start_engine())
        frozen.append(gc.get_freeze_count())
        return 0

    monkeypatch.setattr(run.AsyncEngine, "start", start)
    for name, stand_in in (("serve", serve), ("configure_logging", Mock()), ("leave", Mock())):
        monkeypatch.setattr(run, name, stand_in)
    try:
        run.run_server(EngineConfig(), ServerConfig())
    finally:
        gc.unfreeze()
    assert frozen[0] > 10_000
