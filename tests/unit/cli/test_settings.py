"""Flags of `fastserve serve` from FASTSERVE_* variables and from a file: command line > variable > file > default."""

import dataclasses
import json

import pytest
import yaml

from fastserve.cli import serve as serve_command
from fastserve.cli.main import OneLineParser, main
from fastserve.cli.vllm_flags import FLAGS
from tests.unit.cli.test_flags import CASES, other_value, served_with


@pytest.fixture
def notes(monkeypatch):
    """What the log is to say of the settings."""
    seen = []

    def run_server(engine, server, *, notes):
        seen.extend(notes)
        return 0

    monkeypatch.setattr(serve_command, "load", lambda target: run_server)
    return seen


def file_of(folder, **values) -> str:
    """A file of flags; underscores stand for dashes."""
    path = folder / "flags.yaml"
    path.write_text(yaml.safe_dump({name.replace("_", "-"): value for name, value in values.items()}))
    return str(path)


def refusal(capsys, *words: str) -> str:
    """The one line that refuses."""
    assert main(["serve", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


def configured(config_class, configs):
    engine, server = configs
    parts = (engine.model, engine.cache, engine.parallel, engine.scheduler, server)
    return next(part for part in parts if isinstance(part, config_class))


OF_FIELDS = pytest.mark.parametrize(
    ("config_class", "field"),
    [case for case in CASES if case[1].name != "api_key"],
    ids=lambda v: getattr(v, "name", ""),
)


@OF_FIELDS
def test_every_flag_is_a_variable(monkeypatch, config_class, field):
    value = other_value(field)
    text = json.dumps(value) if isinstance(value, dict) else ",".join(value) if isinstance(value, tuple) else str(value)
    monkeypatch.setenv(f"FASTSERVE_{field.name.upper()}", text)
    changed = configured(config_class, served_with(monkeypatch))
    default = config_class(model="m") if hasattr(changed, "model") else config_class()
    assert changed == dataclasses.replace(default, **{field.name: value})


@OF_FIELDS
def test_every_flag_is_a_key_of_the_file(monkeypatch, tmp_path, config_class, field):
    value = other_value(field)
    path = file_of(tmp_path, **{field.name: list(value) if isinstance(value, tuple) else value})
    changed = configured(config_class, served_with(monkeypatch, "--config", path))
    default = config_class(model="m") if hasattr(changed, "model") else config_class()
    assert changed == dataclasses.replace(default, **{field.name: value})


def test_the_command_line_wins_over_a_variable_which_wins_over_the_file(monkeypatch, tmp_path):
    path = file_of(tmp_path, port=1, max_num_seqs=2, seed=3, enable_prefix_caching=False, api_key=["a"])
    monkeypatch.setenv("FASTSERVE_PORT", "8000")  # the default, and yet it wins
    monkeypatch.setenv("FASTSERVE_MAX_NUM_SEQS", "20")
    engine, server = served_with(monkeypatch, "--config", path, "--max-num-seqs", "200", "--api-key", "b")
    assert (server.port, engine.scheduler.max_num_seqs, engine.model.seed) == (8000, 200, 3)
    assert not engine.cache.enable_prefix_caching and server.api_key == ("b",)
    monkeypatch.setenv("FASTSERVE_ENABLE_PREFIX_CACHING", "on")
    engine, server = served_with(monkeypatch, "--config", path)
    assert engine.cache.enable_prefix_caching and server.api_key == ("a",)
    engine, _ = served_with(monkeypatch, "--config", path, "--no-enable-prefix-caching")
    assert not engine.cache.enable_prefix_caching


def test_the_file_is_named_by_a_variable_and_the_model_by_either(monkeypatch, tmp_path):
    parser = OneLineParser(prog="serve")
    serve_command.add_arguments(parser)
    monkeypatch.setenv("FASTSERVE_CONFIG", file_of(tmp_path, model="of-file", port=81))
    args = serve_command.parse(parser, [])
    assert (args.model, args.port) == ("of-file", 81)
    monkeypatch.setenv("FASTSERVE_MODEL", "of-variable")
    assert serve_command.parse(parser, []).model == "of-variable"
    assert serve_command.parse(parser, ["--model", "of-flag"]).model == "of-flag"
    assert serve_command.parse(parser, ["word"]).model == "word"


@pytest.mark.parametrize("text", ["true", "1", "ON", "yes"])
@pytest.mark.parametrize("name", ["JSON_LOGS", "ENFORCE_EAGER"])
def test_a_switch_is_switched_by_words_of_truth(monkeypatch, name, text):
    monkeypatch.setenv(f"FASTSERVE_{name}", text)
    engine, server = served_with(monkeypatch)
    assert (server.json_logs, engine.model.enforce_eager) == (name == "JSON_LOGS", name == "ENFORCE_EAGER")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("PORT", "x", "invalid int value"),
        ("PORT", "99999", "port must be between"),
        ("MAX_MODEL_LEN", "8x", "whole number"),
        ("MAX_NUM_SEQS", "0", "max_num_seqs"),
        ("DTYPE", "int4", "invalid choice"),
        ("JSON_LOGS", "perhaps", "must be true or false"),
        ("OVERRIDE_GENERATION_CONFIG", "{", "JSON object"),
        ("TRUST_REMOTE_CODE", "1", "is not supported"),
        ("PIPELINE_PARALLEL_SIZE", "100", "pipeline_parallel_size must be"),
        ("CONFIG", "/nowhere.yaml", "cannot be read"),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_variable(monkeypatch, capsys, name, value, why):
    monkeypatch.setenv(f"FASTSERVE_{name}", value)
    line = refusal(capsys, "m")
    assert why in line and (name == "CONFIG" or f"FASTSERVE_{name}: " in line)


def test_the_command_line_is_to_blame_for_its_own_values(monkeypatch, capsys):
    monkeypatch.setenv("FASTSERVE_PORT", "81")
    assert "FASTSERVE" not in refusal(capsys, "m", "--port", "99999")


def test_an_empty_variable_is_not_set_and_a_similar_one_is_noted(monkeypatch, notes):
    monkeypatch.setenv("FASTSERVE_PORT", "")
    monkeypatch.setenv("FASTSERVE_MAX_MODLE_LEN", "7")
    monkeypatch.setenv("FASTSERVE_SOMETHING_ELSE", "7")
    assert main(["serve", "m"]) == 0
    assert notes == ["FASTSERVE_MAX_MODLE_LEN is ignored: it is no setting; FASTSERVE_MAX_MODEL_LEN is"]


def test_the_variable_that_kubernetes_sets_for_a_service_is_not_our_port(monkeypatch, notes):
    monkeypatch.setenv("FASTSERVE_PORT", "tcp://10.0.0.1:8000")
    assert main(["serve", "m"]) == 0
    assert "Kubernetes" in notes[0] and len(notes) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max-modle-len: 7", "'max-modle-len' is no flag; did you mean max-model-len?"),
        ("7: 7", "'7' is no flag"),
        ("port: x", "flags.yaml: port: --port: invalid int value"),
        ("port: 99999", "flags.yaml: port: port must be between"),
        ("port:", "must have a value"),
        ("port: true", "must have a value, got true"),
        ("json-logs: 5", "must be true or false, got 5"),
        ("trust-remote-code: true", "is not supported"),
        ("quantization: awq", "is not supported"),
        ("config: other.yaml", "must not name another file"),
        ("- port", "must map names of flags to values"),
        ("{", "must be YAML"),
        ("port: !!python/object/apply:os.getpid []", "must be YAML"),
        ("a: &a [*a]", "is no flag"),
        ("#" * (1 << 20) + "#", "at most"),
        ("revision: 2024-13-45", "must be YAML"),
        ("revision: 0123456", "put it in quotes"),
        ("served-model-name: 1.10", "put numbers"),
        ("served-model-name: [yes]", "put numbers"),
        ("api-key: [good, -Zk3]", "may begin with a dash"),
        ("override-generation-config: {a: 2024-01-01}", "texts, numbers and truth values"),
    ],
)
def test_a_bad_file_is_refused_with_one_sentence(capsys, tmp_path, text, why):
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    line = refusal(capsys, "m", "--config", str(path))
    assert why in line and "flags.yaml" in line


def test_a_file_for_vllm_is_read(monkeypatch, tmp_path, notes):
    path = tmp_path / "vllm.yaml"
    path.write_text(
        "model: m\nhost: 127.0.0.1\nport: 6379\ntensor-parallel-size: 1\ntrust_remote_code: false\n"
        "kv-cache-dtype: auto\nmax-model-len: 4k\nlimit-mm-per-prompt:\n  image: 0\n"
    )
    assert main(["serve", "--config", str(path)]) == 0
    assert [note.split(" has no")[0] for note in notes] == [
        "--no-trust-remote-code", "--kv-cache-dtype auto", "--limit-mm-per-prompt '{\"image\": 0}'",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["@SECRET", "`SECRET", '"SECRET', "SECRET: b", "*SECRET", "!SECRET x"])
def test_a_key_that_is_no_yaml_is_not_repeated(capsys, tmp_path, line):
    path = tmp_path / "flags.yaml"
    path.write_text(f"port: 1\napi-key: {line}\n")
    refused = refusal(capsys, "m", "--config", str(path))
    assert "must be YAML" in refused and "SECRET" not in refused


def test_what_a_flag_that_is_always_refused_holds_is_not_repeated(monkeypatch, capsys):
    monkeypatch.setenv("FASTSERVE_HF_TOKEN", "SECRET")
    refused = refusal(capsys, "m")
    assert "FASTSERVE_HF_TOKEN: --hf-token is not supported" in refused and "SECRET" not in refused


@pytest.mark.parametrize(
    "text", ['allowed-origins: \'["https://a","https://b"]\'', "allowed-origins: [https://a, https://b]"]
)
def test_a_file_lists_several_values(monkeypatch, tmp_path, text):
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    assert served_with(monkeypatch, "--config", str(path))[1].allowed_origins == ("https://a", "https://b")


def test_a_comma_in_a_text_of_a_file_does_not_part_it(monkeypatch, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text('api-key: "ab,Xk39"')
    assert served_with(monkeypatch, "--config", str(path))[1].api_key == ("ab,Xk39",)


@pytest.mark.parametrize("text", ["https://a,https://b", '["https://a","https://b"]'])
def test_a_variable_lists_several_values(monkeypatch, text):
    monkeypatch.setenv("FASTSERVE_ALLOWED_ORIGINS", text)
    assert served_with(monkeypatch)[1].allowed_origins == ("https://a", "https://b")


@pytest.mark.parametrize("name", ["API_KEYS_FILE", "SSL_CERTFILE", "SSL_CERT_REQS", "UDS"])
def test_a_blank_variable_does_not_open_the_server(monkeypatch, capsys, name):
    monkeypatch.setenv(f"FASTSERVE_{name}", "")
    assert f"FASTSERVE_{name} must not be blank" in refusal(capsys, "m")


def test_an_empty_file_changes_nothing(monkeypatch, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("# nothing\n")
    assert served_with(monkeypatch, "--config", str(path)) == served_with(monkeypatch)


def test_every_flag_of_vllm_may_stand_in_a_file(tmp_path):
    from fastserve.cli.settings import SettingParser

    reader = SettingParser()
    serve_command.add_arguments(reader)
    assert {f"--{flag.name}" for flag in FLAGS} <= reader.flags().keys()


def test_a_json_flag_is_given_key_by_key(monkeypatch):
    words = ["--override-generation-config.temperature", "0.5", "--override_generation_config.top_k=7"]
    engine, _ = served_with(monkeypatch, *words)
    assert engine.model.override_generation_config == {"temperature": 0.5, "top_k": 7}


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--x.a", "1", "--x.b.c=text", "m"], ["--x", '{"a": 1, "b": {"c": "text"}}', "m"]),
        (["--x.a+", "1", "--x.a+=b,c", "--y", "2"], ["--x", '{"a": [1, "b", "c"]}', "--y", "2"]),
        (["-cc.mode=3", "--a_b.c", "{}"], ["-cc", '{"mode": 3}', "--a-b", '{"c": {}}']),
        (["--port", "1", "model.v1", "--top=0.5"], ["--port", "1", "model.v1", "--top=0.5"]),
    ],
)
def test_keyed_flags_become_one_json_object(words, joined):
    assert serve_command.join_json_flags(words) == joined


@pytest.mark.parametrize("words", [["--x.a"], ["--x.a", "1", "--x.a.b", "2"], ["--x.a", "1", "--x.a+", "2"]])
def test_keyed_flags_that_contradict_each_other_are_refused(capsys, words):
    assert "--x.a" in refusal(capsys, "m", *words)


def test_a_refused_flag_given_key_by_key_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "m", "--speculative-config.method", "ngram"])
    assert "--speculative-config is not supported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port: 1\nseed: 2\nport: 3\n", 3),
        ("max-model-len: 8\nmax_model_len: 9\n", 2),
        ("override-generation-config:\n  top_k: 1\n  top_k: 2\n", 3),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(monkeypatch, capsys, tmp_path, text, line):
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    assert f"{path}, line {line}: this key is there before" in refusal(capsys, "m", "--config", str(path))


def test_aliases_are_no_repetition(monkeypatch, tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("served-model-name: &names [a, b]\nallowed-origins: *names\n")
    assert served_with(monkeypatch, "--config", str(path))[1].allowed_origins == ("a", "b")


@pytest.mark.parametrize(("mode", "text", "warned"), [(0o644, "api-key: [k]", True), (0o600, "api-key: [k]", False),
                                                      (0o644, "port: 1", False)])  # fmt: skip
def test_a_file_with_keys_that_every_user_may_read_is_noted(tmp_path, mode, text, warned):
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    path.chmod(mode)
    parser = OneLineParser(prog="serve")
    serve_command.add_arguments(parser)
    notes = serve_command.parse(parser, ["m", "--config", str(path)]).notes
    assert any("may read the API keys" in note for note in notes) == warned
