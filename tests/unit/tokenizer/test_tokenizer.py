"""Loading tokenizer folders; encoding, decoding and chat templates."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.tokenizer import IncrementalDetokenizer, Tokenizer, load_tokenizer
from fastserve.tokenizer.chat_template import TemplateOptions
from fastserve.tokenizer.token_bytes import DecodeRule, decode_rule
from tests.unit.tokenizer import tiny

USER = [{"role": "user", "content": "Hi"}]


def load(folder: Path) -> Tokenizer:
    return load_tokenizer(ModelConfig(model=str(folder)))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return load(tiny.save(tmp_path))


def test_encoding_adds_the_begin_token_by_default(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("fox")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.encode("fox")[1:] == tokenizer.encode("fox", add_special_tokens=False)


def test_decoding_hides_special_tokens_by_default(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("fox"), tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "fox"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>fox</s>"


def test_ids_outside_the_vocabulary_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.id_to_token(tokenizer.vocab_size) is None
    assert tokenizer.decode_token_bytes(tokenizer.vocab_size) == b""
    assert tokenizer.decode([tokenizer.vocab_size]) == ""


@pytest.mark.parametrize("token_ids", [[-1], [2**40], ["a"]])
def test_ids_that_are_no_ids_are_refused(tokenizer: Tokenizer, token_ids: list) -> None:
    with pytest.raises(InvalidArgumentError, match="token ids must be integers"):
        tokenizer.decode(token_ids)


def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidArgumentError, match="valid Unicode"):
        tokenizer.encode("\ud800")


def test_token_bytes_show_parts_of_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("жж🦊", add_special_tokens=False)
    assert b"".join(map(tokenizer.decode_token_bytes, ids)) == "жж🦊".encode()
    assert len(ids) > 3


def test_many_threads_encode_and_decode_alike(tokenizer: Tokenizer) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: tokenizer.decode(tokenizer.encode("the quick 🦊")), range(200)))
    assert found == {"the quick 🦊"}


def test_an_explicit_add_bos_switch_overrules_the_tokenizer_file(tmp_path: Path) -> None:
    without = load(tiny.save(tmp_path / "a", add_bos_token=False))
    with_both = load(tiny.save(tmp_path / "b", add_bos_token=True, add_eos_token=True))
    ids = without.encode("fox")
    assert ids == without.encode("fox", add_special_tokens=False)
    assert with_both.encode("fox") == [1, *ids, 2]


def test_special_tokens_come_from_either_file(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, bos_token=None)
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<unk>", "eos_token": "<s>"}))
    tokenizer = load(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)


def test_a_sentencepiece_folder_is_converted(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf", reason="transformers reads sentencepiece files through protobuf")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(tiny.CORPUS * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe", vocab_size=400,
        byte_fallback=True, character_coverage=0.98, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    )
    tokenizer = load(tmp_path)
    ids = tokenizer.encode("Hello, world! 🦊", add_special_tokens=False)
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert ids == oracle.encode("Hello, world! 🦊")
    assert tokenizer.decode_rule == DecodeRule(byte_level=False, replacements=(("▁", " "),), strip_left_spaces=1)
    assert IncrementalDetokenizer(tokenizer, []).push(ids, finished=True).text == "Hello, world! 🦊"


def test_a_tokenizer_of_its_own_is_used_instead_of_the_models(tmp_path: Path) -> None:
    tiny.save(tmp_path / "tokenizer")
    config = ModelConfig(model=str(tmp_path / "missing"), tokenizer=str(tmp_path / "tokenizer"))
    assert load_tokenizer(config).vocab_size == tiny.byte_level().get_vocab_size()


@pytest.mark.parametrize("name", ["", "/no/such/folder", "./none", "no-such-user/no-such-model", "not a valid id !!"])
def test_an_unknown_model_is_refused_without_any_download(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="tokenizer"):
        load_tokenizer(ModelConfig(model=name))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_broken_file_is_named_in_the_error(tmp_path: Path, name: str, content: str) -> None:
    folder = tiny.save(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no tokenizer that can be read"):
        load(tmp_path)


def test_a_chat_is_rendered_by_the_models_template(tokenizer: Tokenizer) -> None:
    assert tokenizer.has_chat_template
    assert tokenizer.render_chat(USER) == "<s>[user] Hi\n[assistant]"
    assert tokenizer.render_chat(USER, TemplateOptions(add_generation_prompt=False)) == "<s>[user] Hi\n"


# Everything that a template may print of a message.
PRINT_ALL = "{% for m in messages %}{{ m | tojson }}{{ m.content }}{{ m.name }}{% for c in m.tool_calls %}{{ c.id }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("message", "same_as"),
    [
        ({"content": None, "name": None, "tool_calls": None}, {}),
        ({"content": [{"type": "text", "text": "a", "cache": None}]}, {"content": [{"type": "text", "text": "a"}]}),
        (
            {"tool_calls": [{"id": None, "function": {"name": "f", "description": None, "arguments": {"a": None}}}]},
            {"tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}]},
        ),
        ({"function_call": {"name": "f", "arguments": None}}, {"function_call": {"name": "f"}}),
    ],
)
def test_what_is_none_is_not_there_for_a_template(tmp_path: Path, message: dict, same_as: dict) -> None:
    role, tokenizer = {"role": "assistant"}, load(tiny.save(tmp_path, chat_template=PRINT_ALL))
    given = role | message
    rendered = tokenizer.render_chat([given])
    assert rendered == tokenizer.render_chat([role | same_as]) and "None" not in rendered
    assert given == role | message  # the caller's own is left alone


def test_a_template_may_refuse_messages(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidArgumentError, match="no role robot"):
        tokenizer.render_chat([{"role": "robot", "content": "Hi"}])


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    tokenizer = load(tiny.save(tmp_path, chat_template=None))
    assert not tokenizer.has_chat_template
    with pytest.raises(InvalidArgumentError, match="no chat template"):
        tokenizer.render_chat(USER)


def test_template_files_win_over_the_config(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert load(folder).render_chat(USER) == "json"
    (folder / "chat_template.jinja").write_text("jinja")
    assert load(folder).render_chat(USER) == "jinja"


def test_the_tool_template_is_used_when_there_are_tools(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | tojson }}"}]
    tokenizer = load(tiny.save(tmp_path, chat_template=templates))
    assert tokenizer.render_chat(USER) == "plain"
    assert tokenizer.render_chat(USER, TemplateOptions(tools=[{"name": "<é>"}])) == '[{"name": "<é>"}]'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hi"),
        ("{% if true %}\n  yes\n{% endif %}\n", "  yes\n"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{{ strftime_now('%%') }}", "2%"),
        ("{{ tools is none }}", "True"),
    ],
)
def test_templates_have_the_helpers_they_expect(tmp_path: Path, source: str, expected: str) -> None:
    assert load(tiny.save(tmp_path, chat_template=source)).render_chat(USER) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__.os }}",
        "{{ range(10**9) | list }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{{ messages[0].missing.deeper }}",
        "{% if %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox_and_its_failure_is_the_requests(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidArgumentError, match="chat template does not accept"):
        load(tiny.save(tmp_path, chat_template=source)).render_chat(USER)


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Replace", "pattern": {"String": "a"}}]},
        {
            "type": "Sequence",
            "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "ByteFallback"}],
        },
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "CTC"}]},
    ],
)
def test_decoders_that_are_not_plain_bytes_have_no_rule(decoder: dict | None) -> None:
    assert decode_rule(decoder) is None
