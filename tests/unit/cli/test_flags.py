"""Flags come from the dataclasses: every field has one that changes it, with help, unit and default."""

import dataclasses
import importlib
import json
import os
import re
from typing import Literal, get_args, get_origin

import pytest

from fastserve.cli import serve as serve_command
from fastserve.cli.main import OneLineParser, main
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig, ServerConfig

OTHER_VALUES = {
    "block_size": 32,
    "quantum_ratio": 3.0,
    "max_num_seqs": 7,
    "port": 81,
    "gpu_memory_utilization": 0.5,
    "upload_margin": 0.5,
    "max_body_bytes": 2048,
    "root_path": "/other",
    "override_generation_config": {"top_k": 20},
    "default_chat_template_kwargs": {"enable_thinking": False},
    "tool_call_parser": "hermes",
    "reasoning_parser": "qwen3",
}
CASES = [
    (config_class, field)
    for config_class in (ModelConfig, CacheConfig, ParallelConfig, SchedulerConfig, ServerConfig)
    for field in dataclasses.fields(config_class)
    if field.name != "model"
]


def served_with(monkeypatch, *flags: str) -> tuple[EngineConfig, ServerConfig]:
    """What `fastserve serve m FLAGS` gives to run_server."""
    seen = []

    def run_server(*configs, notes):
        seen.append(configs)
        return 0

    monkeypatch.setattr(serve_command, "load", lambda target: run_server)
    assert main(["serve", "m", *flags]) == 0
    return seen[0]


def other_value(field: dataclasses.Field) -> object:
    """A legal value that is not the default."""
    if field.name in OTHER_VALUES:
        return OTHER_VALUES[field.name]
    literals = get_args(field.type) if get_origin(field.type) is Literal else ()
    if choices := field.metadata["choices"] or literals:
        return next(c for c in choices if c != field.default)
    if isinstance(field.default, tuple):
        return ("one", "two")
    if field.default is None:
        kind = str(field.type)
        return "other" if "str" in kind else 3 if "int" in kind else 2.5
    if isinstance(field.default, bool):
        return not field.default
    return field.default + 1 if not isinstance(field.default, str) else "other"


@pytest.mark.parametrize(("config_class", "field"), CASES, ids=lambda v: getattr(v, "name", ""))
def test_every_flag_changes_its_field(monkeypatch, config_class, field):
    value = other_value(field)
    flag = "--" + field.name.replace("_", "-")
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    words = [flag, *value] if isinstance(value, tuple) else [flag, text]
    if isinstance(value, bool):
        words = [flag if value else flag.replace("--", "--no-", 1)]
    engine, server = served_with(monkeypatch, *words)
    parts = {
        ModelConfig: engine.model,
        CacheConfig: engine.cache,
        ParallelConfig: engine.parallel,
        SchedulerConfig: engine.scheduler,
    }
    changed = parts.get(config_class, server)
    assert getattr(changed, field.name) == value
    default = config_class(model="m") if config_class is ModelConfig else config_class()
    assert dataclasses.replace(changed, **{field.name: field.default}) == default


def test_without_flags_the_defaults_stand(monkeypatch):
    engine, server = served_with(monkeypatch)
    assert engine == EngineConfig(model=ModelConfig(model="m"))
    assert server == ServerConfig()


def test_alias_sets_the_same_field(monkeypatch):
    engine, _ = served_with(monkeypatch, "--swap-space", "8", "--num-device-blocks", "9")
    assert (engine.cache.host_kv_gib, engine.cache.num_gpu_blocks_override) == (8.0, 9)


def test_keys_come_from_repeated_flags_and_from_the_environment_which_they_leave(monkeypatch):
    monkeypatch.setenv("FASTSERVE_API_KEY", "key5")
    monkeypatch.setenv("VLLM_API_KEY", "key6")
    _, server = served_with(
        monkeypatch, "--api-key", "key1", "key2", "--port", "0", "--api-key", "key3", "--api-key=key4"
    )
    assert server.api_key == tuple(f"key{i}" for i in range(1, 7))
    assert not {"FASTSERVE_API_KEY", "VLLM_API_KEY"} & os.environ.keys()
    assert "key1" not in repr(server)


@pytest.mark.parametrize("variable", ["FASTSERVE_API_KEY", "VLLM_API_KEY"])
def test_blank_key_in_the_environment_ends_the_start(monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, " \n")
    assert main(["serve", "m"]) == 2
    assert f"{variable} must not be blank" in capsys.readouterr().err


def test_help_shows_text_unit_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--starvation-limit-s SECONDS" in text
    assert (
        "move a request to the front once it has waited this long for its first token, or under mlfq for any token [seconds] (default: 3.0)"
        in text
    )
    assert "--enable-prefix-caching | --no-enable-prefix-caching" in text
    assert "share the KV of common prefixes (default: on)" in text
    for _, field in CASES:
        assert "--" + field.name.replace("_", "-") in text


@pytest.mark.parametrize("command", ["serve", "generate", "chat", "env"])
def test_defaults_that_help_tells_are_the_defaults(command):
    parser = OneLineParser(prog=command)
    importlib.import_module(f"fastserve.cli.{command}").add_arguments(parser)
    for action in parser._actions:
        shown_default = re.search(r"\(default: (.*)\)$", action.help)
        is_switch = isinstance(action.default, bool)
        shown = ("on" if action.default else "off") if is_switch else str(action.default)
        assert shown_default is None or shown_default[1] == shown, action.dest


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["serve"], "MODEL"),
        (["serve", "m", "--port", "x"], "--port"),
        (["serve", "m", "--port", "99999"], "port"),
        (["serve", "m", "--dtype", "int4"], "--dtype"),
        (["serve", "m", "--no-such-flag"], "--no-such-flag"),
        (["serve", "m", "--override-generation-config", "{temperature: 1}"], "--override-generation-config"),
        (["serve", "m", "--override-generation-config", "[" * 100_000], "--override-generation-config"),
        (["serve", "m", "--override-generation-config", "[1]"], "--override-generation-config"),
        (["serve", "m", "--max-num-seq", "4"], "--max-num-seq"),
        (["serve", "m", "--quantum-ratio", "nan"], "quantum_ratio"),
        (["serve", "m", "--api-key", " "], "api_key"),
        (["generate", "m"], "--prompt"),
        (["generate", "m", "--prompt", "x", "--top-p", "2"], "top_p"),
        (["fly"], "fly"),
        (["--fly"], "command"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(capsys, words, culprit):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1 and culprit in output.err


def test_parser_does_not_abbreviate():
    parser = OneLineParser(prog="p")
    parser.add_argument("--long-flag")
    with pytest.raises(SystemExit):
        parser.parse_args(["--long", "1"])


def test_ranks_under_the_names_of_vllm(monkeypatch):
    engine, _ = served_with(
        monkeypatch,
        "-tp",
        "2",
        "-pp",
        "3",
        "--distributed-executor-backend",
        "mp",
        "--distributed-timeout-seconds",
        "9",
    )
    assert engine.parallel == ParallelConfig(
        tensor_parallel_size=2,
        pipeline_parallel_size=3,
        distributed_executor_backend="mp",
        distributed_timeout_s=9.0,
    )
    engine, _ = served_with(monkeypatch, "--distributed-executor-backend", "uni")
    assert engine.parallel.distributed_executor_backend == "inproc"
