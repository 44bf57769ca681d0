"""The commands, apart from their flags."""

import dataclasses
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fastserve import __version__
from fastserve.cli import generate as generate_command
from fastserve.cli import main as main_module
from fastserve.cli.api_key import CLIENT_VARIABLES
from fastserve.cli.main import COMMANDS, main
from fastserve.errors import CheckpointError
from fastserve.types import CompletionOutput, FinishReason, RequestOutput, SamplingParams
from tests.unit.server.process import server_process, wait_ready


class FakeLLM:
    """Echoes its prompts; keeps what it was built with."""

    def __init__(self, model: str, **values) -> None:
        if model == "broken":
            raise CheckpointError("config.json is\nnot JSON")
        type(self).built = (model, values)

    def get_default_sampling_params(self):
        return SamplingParams(min_p=0.25)

    def generate(self, prompts, sampling, *, use_tqdm):
        type(self).sampling = sampling
        return [
            RequestOutput(
                prompt=prompt,
                prompt_token_ids=(1, 2),
                outputs=(
                    CompletionOutput(
                        index=0,
                        text=prompt.upper(),
                        token_ids=(3,),
                        finish_reason=FinishReason.LENGTH,
                        error="too long" if prompt == "bad" else None,
                    ),
                ),
            )
            for prompt in prompts
        ]


@pytest.fixture
def llm(monkeypatch):
    monkeypatch.setattr(generate_command, "load", lambda target: FakeLLM)
    return FakeLLM


def test_importing_the_command_line_loads_no_torch_and_no_server():
    code = (
        "import sys, fastserve.cli.main, fastserve.cli.serve, fastserve.cli.generate, fastserve.cli.env;"
        "print([m for m in ('torch', 'transformers', 'fastapi', 'pydantic', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"fastserve {__version__}\n"


def test_generate_prints_one_text_per_prompt(llm, capsys):
    assert main(["generate", "m", "--prompt", "a", "--prompt", "b", "--max-tokens", "5", "--max-num-seqs", "2"]) == 0
    assert capsys.readouterr().out == "A\nB\n"
    assert llm.sampling.max_tokens == 5
    model, values = llm.built
    assert model == "m" and values["max_num_seqs"] == 2 and "model" not in values


def test_generate_reads_prompts_from_a_file_or_standard_input(llm, capsys, tmp_path, monkeypatch):
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\n")
    assert main(["generate", "m", "--prompt-file", str(path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["A", "B"]
    assert rows[0]["finish_reason"] == "length" and rows[0]["prompt_tokens"] == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\n"))
    assert main(["generate", "m", "--prompt-file", "-"]) == 0
    assert capsys.readouterr().out == "C\n"


@pytest.mark.parametrize(
    ("flags", "sampling"),
    [
        (["--max-tokens", "5"], SamplingParams(max_tokens=5)),
        (["--temperature", "0.5"], SamplingParams(max_tokens=128, temperature=0.5)),
        (["--top-p", "0.5"], SamplingParams(max_tokens=128, top_p=0.5)),
        (["--top-k", "5"], SamplingParams(max_tokens=128, top_k=5)),
        (["--n", "3"], SamplingParams(max_tokens=128, n=3)),
        (["--stop", "a", "--stop", "b"], SamplingParams(max_tokens=128, stop=("a", "b"))),
        (["--ignore-eos"], SamplingParams(max_tokens=128, ignore_eos=True)),
        ([], SamplingParams(max_tokens=128)),
    ],
    ids=lambda flags: " ".join(flags) if isinstance(flags, list) else "",
)
def test_each_flag_of_generate_asks_for_one_thing(llm, flags, sampling):
    assert main(["generate", "m", "--prompt", "a", *flags]) == 0
    assert llm.sampling == dataclasses.replace(sampling, min_p=0.25)  # the model's


def test_generate_says_which_prompt_failed_and_exits_1(llm, capsys):
    assert main(["generate", "m", "--prompt", "a", "--prompt", "bad"]) == 1
    output = capsys.readouterr()
    assert output.out == "A\n" and output.err == "error: too long\n"


def test_failures_are_one_line_and_exit_1(llm, capsys):
    for words in (["broken", "--prompt", "a"], ["m", "--prompt-file", "/nowhere/x"]):
        assert main(["generate", *words]) == 1
        output = capsys.readouterr()
        assert output.err.count("\n") == 1 and "Traceback" not in output.err


def test_missing_package_is_named_with_its_remedy(monkeypatch, capsys):
    def missing(target):
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    monkeypatch.setattr(generate_command, "load", missing)
    assert main(["generate", "m", "--prompt", "x"]) == 1
    assert "pip install 'fastserve[serve]'" in capsys.readouterr().err


def test_interrupt_is_quiet(monkeypatch, capsys):
    def interrupted(target):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate_command, "load", interrupted)
    assert main(["generate", "m", "--prompt", "x"]) == main_module.EXIT_INTERRUPTED
    assert capsys.readouterr().err == ""


def test_env_names_version_cpu_and_devices(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fastserve"] == __version__
    assert facts["cpu isa"] in ("scalar", "avx2", "avx512", "amx") and facts["threads"] >= 1
    assert isinstance(facts["cuda devices"], list)
    assert main(["env"]) == 0
    assert "cuda build" in capsys.readouterr().out


def test_chat_streams_replies_of_a_server(capsys, monkeypatch):
    with server_process("slow") as (_, client):
        wait_ready(client)
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/reset\nagain\n/exit\nnever\n"))
        url = str(client.base_url)
        assert main(["chat", "--url", url, "--max-tokens", "3", "--system", "be brief"]) == 0
        assert capsys.readouterr().out == "word word word \n" * 2
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
        assert main(["chat", "--url", url, "--max-tokens", "100000"]) == 1
        assert "max_tokens" in capsys.readouterr().err


@contextmanager
def recording_server() -> Iterator[tuple[str, list[dict]]]:
    """A chat server that thinks "hm, " and answers "yes"; yields its URL and what it was sent: the key and the body of each request."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append({"key": self.headers["authorization"], **body})
            self.send_response(200)
            self.end_headers()
            for delta in (b'{"reasoning":"hm, "}', b'{"content":"yes"}'):
                self.wfile.write(b'data: {"choices":[{"delta":%s}]}\n\n' % delta)
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_flags_of_chat_go_into_its_requests(capsys, monkeypatch):
    for variable in CLIENT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with recording_server() as (url, seen):
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
        flags = ["--api-key", "secret", "--system", "be brief", "--max-tokens", "7", "--temperature", "0.25"]
        assert main(["chat", "--url", url, *flags]) == 0
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
        assert main(["chat", "--url", url]) == 0
        monkeypatch.setenv("OPENAI_API_KEY", "hidden")
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
        assert main(["chat", "--url", url]) == 0
    assert capsys.readouterr().out == "hm, yes\n" * 4
    system, one = {"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}
    yes, two = {"role": "assistant", "content": "yes"}, {"role": "user", "content": "two"}
    asked = {"key": "Bearer secret", "stream": True, "temperature": 0.25, "max_tokens": 7}
    assert seen[0] == asked | {"messages": [system, one]}
    assert seen[1] == asked | {"messages": [system, one, yes, two]}
    assert seen[2] == {"key": None, "stream": True, "temperature": None, "max_tokens": None, "messages": [one]}
    assert seen[3] == seen[2] | {"key": "Bearer hidden"}


def test_chat_says_when_there_is_no_server(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert main(["chat", "--url", "http://127.0.0.1:9"]) == 1
    assert "does not answer" in capsys.readouterr().err
