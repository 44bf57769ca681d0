"""Deltas of a detokenizer, joined, are the decoding of all tokens at once, wherever the stream is cut."""

import codecs
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.tokenizer import IncrementalDetokenizer, Tokenizer
from tests.unit.tokenizer import tiny
from tests.unit.tokenizer.test_stop_matcher import whole_text_search

BYTE_LEVEL = Tokenizer(tiny.byte_level(), special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
LLAMA2 = Tokenizer(tiny.byte_fallback(), special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
GEMMA = Tokenizer(tiny.byte_fallback(False))
WORD_PIECE = Tokenizer(tiny.word_piece())
ODD = Tokenizer(tiny.odd_byte_fallback())
ALL = pytest.mark.parametrize(
    "tokenizer", [BYTE_LEVEL, LLAMA2, GEMMA, WORD_PIECE], ids=["bytes", "llama2", "gemma", "wp"]
)
FIRST_BYTE_ID = len(tiny.SPECIAL)

chunk_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=8)
texts = st.text(st.sampled_from("ab cdéü🙂你 \n<>ж"), max_size=40)


def pieces(items: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """Cut a list into chunks, going round the sizes."""
    found, start, i = [], 0, 0
    while start < len(items):
        found.append(items[start : start + sizes[i % len(sizes)]])
        start += sizes[i % len(sizes)]
        i += 1
    return found


def stream(detokenizer: IncrementalDetokenizer, ids: Sequence[int], sizes: Sequence[int] = (1,)) -> str:
    return "".join(
        [detokenizer.push(chunk).text for chunk in pieces(ids, sizes)] + [detokenizer.push((), finished=True).text]
    )


def run_matcher(
    tokenizer: Tokenizer, ids: Sequence[int], sizes: Sequence[int], **kwargs
) -> tuple[str, str | None, int]:
    """Text, stop string and number of tokens used."""
    detokenizer = IncrementalDetokenizer(tokenizer, [], **kwargs)
    text, used = "", 0
    chunks = pieces(ids, sizes) or [()]
    for i, chunk in enumerate(chunks):
        delta = detokenizer.push(chunk, finished=i == len(chunks) - 1)
        text, used = text + delta.text, used + delta.num_tokens
        if delta.stop_string:
            return text, delta.stop_string, used
    return text, None, used


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, WORD_PIECE], ids=["bytes", "wp"])
@given(data=st.data(), sizes=chunk_sizes)
def test_random_tokens_stream_to_their_one_shot_decoding(tokenizer: Tokenizer, skip: bool, data, sizes) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=60))
    detokenizer = IncrementalDetokenizer(tokenizer, [], skip_special_tokens=skip)
    assert stream(detokenizer, ids, sizes) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("tokenizer", [LLAMA2, GEMMA], ids=["llama2", "gemma"])
@given(data=st.data(), sizes=chunk_sizes)
def test_random_sentencepiece_tokens_with_valid_bytes_stream_to_their_decoding(
    tokenizer: Tokenizer, skip: bool, data, sizes
) -> None:
    character = st.sampled_from("a é你🙂").map(lambda c: [FIRST_BYTE_ID + byte for byte in c.encode()])
    piece = st.integers(0, tokenizer.vocab_size + 3).filter(lambda i: not 3 <= i < 259).map(lambda i: [i])
    ids = [i for group in data.draw(st.lists(st.one_of(character, piece), max_size=40)) for i in group]
    detokenizer = IncrementalDetokenizer(tokenizer, [], skip_special_tokens=skip)
    assert stream(detokenizer, ids, sizes) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.integers(0, LLAMA2.vocab_size - 1), max_size=60), sizes=chunk_sizes)
def test_sentencepiece_tokens_with_any_bytes_give_the_utf8_reading_of_their_bytes(ids, sizes) -> None:
    raw = b"".join(LLAMA2.token_bytes(skip_special_tokens=True)[i] for i in ids)
    expected = codecs.decode(raw, "utf-8", "replace")
    assert stream(IncrementalDetokenizer(LLAMA2, []), ids, sizes) == expected.removeprefix(" ")


@ALL
@given(text=texts, split=st.integers(0, 40))
def test_deltas_continue_the_text_of_the_prompt(tokenizer: Tokenizer, text: str, split: int) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    prompt, output = ids[:split], ids[split:]
    whole = tokenizer.decode(ids)
    shown_prompt = IncrementalDetokenizer(tokenizer, []).push(prompt).text
    assert shown_prompt + stream(IncrementalDetokenizer(tokenizer, prompt), output) == whole


def characters(raw: bytes) -> list[tuple[int, int, str]]:
    """(start, end, text) of each character of bytes; a sequence that is no UTF-8 is one U+FFFD."""
    bad: list[tuple[int, int]] = []

    def note(error: UnicodeDecodeError) -> tuple[str, int]:
        bad.append((error.start, error.end))
        return "", error.end

    codecs.register_error("note", note)
    raw.decode("utf-8", "note")
    found, start = [(a, b, "\N{REPLACEMENT CHARACTER}") for a, b in bad], 0
    for a, b in [*bad, (len(raw), len(raw))]:
        for character in raw[start:a].decode():
            found.append((start, start + len(character.encode()), character))
            start += len(character.encode())
        start = b
    return sorted(found)


def output_text(prompt: bytes, output: bytes) -> str:
    """Characters that end in the output, but for invalid ones that begin in the prompt."""
    whole, cut = prompt + output, len(prompt)
    ends_in_output = [row for row in characters(whole) if row[1] > cut]
    return "".join(text for start, end, text in ends_in_output if start >= cut or whole[start:end] == text.encode())


BYTES = st.lists(st.sampled_from([*"aé你🙂\ufffd".encode(), 0xF0, 0x9F, 0x80, 0xE4]), max_size=14).map(bytes)
CHARACTERS = st.text(st.sampled_from("aé你🙂\ufffd"), max_size=6).map(str.encode)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, LLAMA2, GEMMA], ids=["bytes", "llama2", "gemma"])
@given(raw=BYTES | CHARACTERS, tail=BYTES, sizes=chunk_sizes)
def test_prompt_that_ends_inside_a_character_leaves_nothing_in_the_output(tokenizer, raw, tail, sizes) -> None:
    byte_ids = {bytes([byte]): i for i in range(tokenizer.vocab_size) for byte in tokenizer.decode_token_bytes(i)[:1]
                if len(tokenizer.decode_token_bytes(i)) == 1}  # fmt: skip
    for cut in range(1, len(raw) + 1):
        prompt, output = raw[:cut], raw[cut:] + tail
        ids = [[byte_ids[bytes([byte])] for byte in part] for part in (prompt, output)]
        assert stream(IncrementalDetokenizer(tokenizer, ids[0]), ids[1], sizes) == output_text(prompt, output)


@pytest.mark.parametrize("num_open", [0, 1, 2])
def test_other_decoders_show_nothing_of_the_prompts_last_character_either(num_open: int) -> None:
    piece = next(i for i in range(FIRST_BYTE_ID + 256, ODD.vocab_size) if ODD.id_to_token(i) == "a")
    character = [FIRST_BYTE_ID + byte for byte in "本".encode()]
    prompt, rest = [piece, *character[:num_open]], character[num_open:]
    assert ODD.decode_rule is None
    assert stream(IncrementalDetokenizer(ODD, prompt), [piece]) == "a"
    assert stream(IncrementalDetokenizer(ODD, prompt), []) == ""
    assert stream(IncrementalDetokenizer(ODD, prompt), [*rest, piece]) == "本a"


@ALL
def test_no_delta_holds_half_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🙂b你c", add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(tokenizer, [])
    deltas = [detokenizer.push([i]).text for i in ids]
    assert not any("\N{REPLACEMENT CHARACTER}" in delta for delta in deltas)


def test_a_sentencepiece_output_keeps_its_leading_space_after_a_prompt_but_not_at_the_start() -> None:
    ids = LLAMA2.encode("the fox", add_special_tokens=False)
    assert stream(IncrementalDetokenizer(LLAMA2, ids), ids) == " the fox"
    assert stream(IncrementalDetokenizer(LLAMA2, [1]), ids) == "the fox"
    assert stream(IncrementalDetokenizer(LLAMA2, [1], skip_special_tokens=False), ids) == " the fox"


def test_an_unfinished_character_is_shown_as_a_replacement_at_the_end() -> None:
    ids = [FIRST_BYTE_ID + byte for byte in "🙂".encode()[:3]]
    detokenizer = IncrementalDetokenizer(LLAMA2, [])
    assert detokenizer.push(ids).text == ""
    assert detokenizer.push((), finished=True).text == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_token_has_no_text() -> None:
    ids = BYTE_LEVEL.encode("fox dog", add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, [], skip_special_tokens=False)
    delta = detokenizer.push([*ids, BYTE_LEVEL.eos_token_id], finished=True, stop_token=True)
    assert (delta.text, delta.num_tokens) == ("fox dog", len(ids) + 1)


def test_text_that_may_begin_a_stop_string_is_held_back() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, [], stop=("###",))
    one = BYTE_LEVEL.encode("#", add_special_tokens=False)
    assert [detokenizer.push(one).text for _ in range(2)] == ["", ""]
    assert detokenizer.push(BYTE_LEVEL.encode("a", add_special_tokens=False)).text == "##a"


def test_text_held_back_is_given_out_at_the_end() -> None:
    ids = BYTE_LEVEL.encode("ab", add_special_tokens=False)
    assert run_matcher(BYTE_LEVEL, ids, [1], stop=("abc",)) == ("ab", None, len(ids))


def test_nothing_follows_a_stop_string() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, [], stop=("b",))
    ids = BYTE_LEVEL.encode("x b y", add_special_tokens=False)
    delta = detokenizer.push(ids)
    assert (delta.text, delta.stop_string) == ("x ", "b")
    assert detokenizer.push(ids, finished=True).text == ""


@ALL
@given(
    text=st.text(st.sampled_from("ab é🙂"), max_size=30),
    stop=st.lists(st.text(st.sampled_from("ab é🙂"), min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
    sizes=chunk_sizes,
)
def test_stop_strings_cut_the_text_wherever_the_stream_is_cut(tokenizer: Tokenizer, text: str, stop, sizes) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    expected_text, expected_stop = whole_text_search(tokenizer.decode(ids), stop)
    got_text, got_stop, used = run_matcher(tokenizer, ids, sizes, stop=tuple(stop))
    assert (got_text, got_stop) == (expected_text, expected_stop)
    if got_stop is None:
        assert used == len(ids)
    else:
        assert tokenizer.decode(ids[:used]).startswith(got_text + got_stop) or tokenizer is not BYTE_LEVEL
        assert whole_text_search(tokenizer.decode(ids[: used - 1]), stop)[1] is None


def test_stop_strings_are_let_through_before_min_tokens() -> None:
    ids = [BYTE_LEVEL.encode(c, add_special_tokens=False)[0] for c in "abab"]
    assert run_matcher(BYTE_LEVEL, ids, [1], stop=("ab",), min_tokens=3) == ("ab", "ab", 4)
    assert run_matcher(BYTE_LEVEL, ids, [4], stop=("ab",), min_tokens=3) == ("ab", "ab", 4)
    assert run_matcher(BYTE_LEVEL, ids, [1], stop=("ab",), min_tokens=2) == ("", "ab", 2)
    assert run_matcher(BYTE_LEVEL, ids, [1], stop=("ab",), min_tokens=5) == ("abab", None, 4)


def test_a_stop_string_may_begin_before_min_tokens() -> None:
    ids = [BYTE_LEVEL.encode(c, add_special_tokens=False)[0] for c in "xab"]
    assert run_matcher(BYTE_LEVEL, ids, [1], stop=("ab",), min_tokens=3) == ("x", "ab", 3)


@pytest.mark.parametrize("stop", [(), ("a" * 5000 + "b", "zzz")], ids=["plain", "adversarial stop string"])
@ALL
def test_the_cost_of_a_token_does_not_grow_with_the_output(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    token = tokenizer.encode("a", add_special_tokens=False)
    detokenizer = IncrementalDetokenizer(tokenizer, [], stop=stop)

    def cost_s(count: int) -> float:
        start = time.process_time()
        for _ in range(count):
            detokenizer.push(token)
        return time.process_time() - start

    first = cost_s(1500)
    cost_s(6000)
    # Quadratic work would make these tokens at least five times dearer than the first.
    assert cost_s(1500) < 4 * first + 0.02


@pytest.mark.parametrize("stop", [("##",), ("b##", "#")])
@given(sizes=chunk_sizes)
def test_a_stop_string_that_is_to_be_kept_ends_the_text(stop: tuple[str, ...], sizes) -> None:
    ids = BYTE_LEVEL.encode("ab##c", add_special_tokens=False)
    text, found, _ = run_matcher(BYTE_LEVEL, ids, sizes, stop=stop, keep_stop=True)
    cut, same, _ = run_matcher(BYTE_LEVEL, ids, sizes, stop=stop)
    assert found == same and text == cut + found


def test_a_stop_token_that_is_to_be_kept_has_its_text() -> None:
    ids = BYTE_LEVEL.encode("ab", add_special_tokens=False)
    kept = IncrementalDetokenizer(BYTE_LEVEL, [], keep_stop=True)
    assert kept.push(ids, finished=True, stop_token=True).text == "ab"
    end = BYTE_LEVEL.encode("</s>", add_special_tokens=False)
    for skip, text in ((True, "ab"), (False, "ab</s>")):
        shown = IncrementalDetokenizer(BYTE_LEVEL, [], keep_stop=True, skip_special_tokens=skip)
        assert shown.push(ids + end, finished=True, stop_token=True).text == text
