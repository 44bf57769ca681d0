"""`fastserve generate` on a tiny checkpoint, in this process."""

import pytest

from fastserve.cli.main import main
from tests.checkpoints import VOCAB_SIZE, tiny_checkpoint

SMALL = ("--max-model-len", "256", "--num-gpu-blocks-override", "16", "--num-host-blocks-override", "0")
GREEDY = ("--temperature", "0", "--max-tokens", "12", "--ignore-eos")


def generate(*flags: str) -> int:
    return main(["generate", str(tiny_checkpoint("llama")), *SMALL, *GREEDY, "--prompt", "The quick", *flags])


@pytest.fixture
def text(capsys: pytest.CaptureFixture) -> str:
    """What the model says to the prompt."""
    assert generate() == 0
    return capsys.readouterr().out


def test_flags_change_the_text(text, capsys):
    assert generate("--max-tokens", "3") == 0
    shorter = capsys.readouterr().out
    assert text.startswith(shorter.removesuffix("\n")) and len(shorter) < len(text)
    assert generate("--temperature", "5", "--seed", "3") == 0
    assert capsys.readouterr().out != text
    assert generate("--temperature", "5", "--top-k", "1") == 0
    assert capsys.readouterr().out == text
    assert generate("--stop", text[3:5]) == 0
    assert capsys.readouterr().out == text[: text.index(text[3:5])] + "\n"


def test_cache_folder_that_cannot_be_written_changes_nothing(text, capsys, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert generate() == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("flags", "culprits"),
    [
        (("--num-gpu-blocks-override", "15"), ("max_model_len = 256", "got 15 blocks", "--kv-gib")),
        (("--max-model-len", "100000"), ("max_model_len", "100000")),
        (("--tokenizer", "/nowhere"), ("tokenizer", "/nowhere")),
        (("--scheduling-policy", "srpt"), ("--scheduling-policy", "srpt")),
        (("--n", "1000000000"), ("n must be", "1000000000")),
    ],
    ids=str,
)
def test_what_cannot_run_is_one_line_and_exit_2(capsys, flags, culprits):
    try:
        code = generate(*flags)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2 and output.out == ""
    assert output.err.count("\n") == 1 and all(culprit in output.err for culprit in culprits)


def test_prompt_that_cannot_run_fails_alone(capsys):
    long = "word " * 2 * VOCAB_SIZE
    assert generate("--prompt", long) == 1
    output = capsys.readouterr()
    assert output.out.count("\n") == 1 and "max_model_len" in output.err
