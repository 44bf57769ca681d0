"""Every flag of `vllm serve`: it has its meaning, changes nothing because FastServe does so anyway, or is refused."""

import re
import shlex
from pathlib import Path

import pytest

from fastserve.cli import serve as serve_command
from fastserve.cli.main import OneLineParser, main
from fastserve.cli.vllm_flags import FLAGS, FORMER, document
from fastserve.cli.vllm_flags.flag import ANY, ON, VllmFlag

ROOT = Path(__file__).parents[3]
# Each line: switch, value, values or json, the flag, its short forms; of the release that the table names.
THEIRS = [line.split() for line in (Path(__file__).parent / "vllm_0_32_flags.txt").read_text().splitlines()]
OURS = [flag for flag in (*FLAGS, *FORMER) if flag.ours]
ANSWERED = [flag for flag in (*FLAGS, *FORMER) if not flag.ours]


def name(flag: VllmFlag) -> str:
    return flag.name


def words(flag: VllmFlag, spelling: str, value: str) -> list[str]:
    """The flag with a value, as on a command line."""
    if flag.shape == "switch":
        return [spelling if value == ON else spelling.replace("--", "--no-", 1)]
    return [f"{spelling}={value}"] if value == "" else [spelling, value]


@pytest.fixture(scope="module")
def parser() -> OneLineParser:
    """That of `fastserve serve`."""
    parser = OneLineParser(prog="fastserve serve")
    serve_command.add_arguments(parser)
    return parser


def refusal(capsys, parser: OneLineParser, *flags: str) -> str:
    """The one line that refuses the flags."""
    with pytest.raises(SystemExit) as stop:
        serve_command.parse(parser, ["m", *flags])
    output = capsys.readouterr()
    assert stop.value.code == 2 and output.out == "" and output.err.count("\n") == 1
    return output.err


def spellings(flag: VllmFlag, value: str) -> list[str]:
    """Those that can bring the value; the first one with underscores as well."""
    shorts = () if flag.shape == "switch" and value != ON else flag.spellings[1:]
    return [f"--{flag.name}", "--" + flag.name.replace("-", "_"), *shorts]


def test_the_table_has_every_flag_of_vllm_and_no_other():
    assert sorted(row[1] for row in THEIRS) == sorted(f"--{flag.name}" for flag in FLAGS)
    assert not {flag.name for flag in FORMER} & {flag.name for flag in FLAGS}


@pytest.mark.parametrize("flag", FLAGS, ids=name)
def test_a_flag_has_the_form_that_it_has_in_vllm(flag):
    (form, *spellings) = next(row for row in THEIRS if row[1] == f"--{flag.name}")
    assert flag.spellings == tuple(spellings)
    if not flag.ours and flag.shape != "optional":
        assert flag.shape == ("value" if form == "json" else form)


@pytest.mark.parametrize("flag", OURS, ids=name)
def test_a_flag_of_the_same_meaning_is_one_of_ours(parser, flag):
    actions = {spelling: action for action in parser._actions for spelling in action.option_strings}
    for spelling in flag.spellings:
        assert actions[spelling] is actions[f"--{flag.ours}"]
        assert actions[spelling].dest != "without_effect"


@pytest.mark.parametrize("flag", [flag for flag in ANSWERED if flag.as_here], ids=name)
def test_a_value_that_describes_what_is_done_anyway_is_noted(parser, flag):
    for as_here in flag.as_here:
        value = "something" if as_here == ANY else as_here
        for spelling in spellings(flag, value):
            first, *rest = words(flag, spelling, value)
            args = serve_command.parse(parser, ["m", first, *rest])
            noted = first.replace("_", "-").replace("=", " ''")
            assert args.without_effect == (shlex.join([noted, *rest]) if rest else noted,)


@pytest.mark.parametrize("flag", [flag for flag in ANSWERED if ANY not in flag.as_here], ids=name)
def test_any_other_value_is_refused_with_a_sentence(capsys, parser, flag):
    others = {"on", "off"} - set(flag.as_here) if flag.shape == "switch" else {"other"}
    for value in others:
        for spelling in spellings(flag, value):
            first, *rest = words(flag, spelling, value)
            given = " ".join([first.replace("_", "-"), *(rest if flag.as_here else ())])
            line = f"fastserve serve: error: {given} is not supported: {flag.note}\n"
            assert refusal(capsys, parser, first, *rest) == line


@pytest.mark.parametrize("flag", ANSWERED, ids=name)
def test_a_refusal_is_one_sentence_that_says_what_to_do_or_to_use(parser, flag):
    assert not flag.note.endswith(".") and len(flag.note) < 120
    assert re.search(
        r"leave it out|--[a-z]|docs/|\b(use|send|set|run|read|start|stop|edit|save|split|merge|convert|describes|serve)\b",
        flag.note,
    )
    ours = {s for action in parser._actions if action.dest != "without_effect" for s in action.option_strings}
    assert {*re.findall(r"--[a-z-]+[a-z]", flag.note)} <= ours


def test_the_log_says_what_has_no_effect(monkeypatch):
    seen = []

    def run_server(engine, server, *, notes):
        seen.extend(notes)
        return 0

    monkeypatch.setattr(serve_command, "load", lambda target: run_server)
    assert main(["serve", "m", "-pcp", "1", "--kv_cache_dtype=auto"]) == 0
    assert seen == [f"{flag} has no effect: FastServe does so anyway" for flag in ("-pcp 1", "--kv-cache-dtype auto")]


def test_several_values_of_which_one_is_refused_are_refused(capsys, parser):
    assert "other" in refusal(capsys, parser, "--ignore-patterns", "original/**/*", "other")


def test_a_short_flag_may_have_its_value_attached(capsys, parser):
    assert "-O is not supported" in refusal(capsys, parser, "-O3")


def test_values_under_vllms_names_are_taken(parser):
    flags = ["--dtype", "half", "--load-format", "auto", "--max_model_len", "4K", "--max-num-batched-tokens=1.5k"]
    flags += ["--log-level", "DEBUG", "--long-prefill-token-threshold", "64"]
    args = serve_command.parse(parser, ["m", *flags])
    assert (args.dtype, args.load_format, args.max_model_len) == ("float16", "safetensors", 4096)
    assert (args.max_num_batched_tokens, args.max_prefill_chunk_tokens, args.log_level) == (1500, 64, "debug")


@pytest.mark.parametrize("value", ["auto", "1.5", "1e9", "", "k", "1kk", "1/2", "9" * 40])
def test_a_size_that_is_none_is_refused(capsys, parser, value):
    assert "--max-model-len" in refusal(capsys, parser, f"--max-model-len={value}")


@pytest.mark.parametrize("words", [['["GET", "POST"]'], ["GET", "POST"], ["GET", "--allowed-methods", "POST"]])
def test_several_values_are_words_or_one_json_list(parser, words):
    assert serve_command.parse(parser, ["m", "--allowed-methods", *words]).allowed_methods == ("GET", "POST")
    assert serve_command.parse(parser, ["m"]).allowed_methods == ("*",)


@pytest.mark.parametrize("value", ["[", "[1]", '["a", 1]', "[" * 100_000])
def test_a_list_that_is_none_is_refused(capsys, parser, value):
    assert "--allowed-methods: must be words or one JSON list" in refusal(capsys, parser, "--allowed-methods", value)


def test_the_model_is_a_word_or_a_flag_and_the_word_wins(capsys, parser):
    assert serve_command.parse(parser, ["--port", "1", "--enforce-eager", "word"]).model == "word"
    assert serve_command.parse(parser, ["--model", "flag", "--port", "1"]).model == "flag"
    assert serve_command.parse(parser, ["word", "--model", "flag"]).model == "word"
    with pytest.raises(SystemExit):
        serve_command.parse(parser, ["--port", "1"])
    assert "required: MODEL" in capsys.readouterr().err


def test_underscores_of_values_and_behind_two_dashes_stay():
    parser = OneLineParser(prog="p")
    parser.add_argument("--a-b")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args(["--a_b=c_d", "x_y", "--", "--a_b"])
    assert (args.a_b, args.words) == ("c_d", ["x_y", "--a_b"])


def test_the_help_shows_our_flags_alone(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert "--trust-remote-code" not in text and "--max-model-len" in text


def test_the_table_of_the_document_is_that_of_the_program():
    text = (ROOT / "docs/from-vllm.md").read_text()
    assert document.with_table(text) == text, "run `make flag-table`"
