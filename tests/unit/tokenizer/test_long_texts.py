"""Long texts: the same ids and text as from the backend's plain calls, and a bound that refuses none that would fit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from fastserve.tokenizer import Tokenizer
from tests.unit.tokenizer import tiny

BACKENDS = {
    "bytes": tiny.byte_level(),
    "llama2": tiny.byte_fallback(),
    "gemma": tiny.byte_fallback(False),
    "wp": tiny.word_piece(),
}
ANY_TEXT = st.text(max_size=200) | st.text(st.sampled_from("ab <s>\n é🙂你▁"), max_size=200)


def changed(backend: Backend, **sections: object) -> Backend:
    """A copy with other sections of tokenizer.json."""
    return Backend.from_str(json.dumps(json.loads(backend.to_str()) | sections))


def composing() -> Backend:
    """As Qwen: NFC in front of byte-level BPE."""
    backend = changed(tiny.byte_level())
    backend.normalizer = normalizers.NFC()
    return backend


BOUNDED = {name: BACKENDS[name] for name in ("bytes", "llama2", "gemma")} | {"qwen": composing()}


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@given(text=ANY_TEXT, special=st.booleans())
def test_ids_and_text_are_those_of_the_backend(backend: Backend, text: str, special: bool) -> None:
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode(text, add_special_tokens=special)
    assert ids == backend.encode(text, add_special_tokens=special).ids
    assert tokenizer.decode(ids, skip_special_tokens=special) == backend.decode(ids, skip_special_tokens=special)


@pytest.mark.parametrize("backend", BOUNDED.values(), ids=BOUNDED)
@given(data=st.data())
def test_no_text_has_fewer_tokens_than_the_bound_says(backend: Backend, data) -> None:
    tokenizer = Tokenizer(backend)
    longest = sorted(backend.get_vocab(), key=len)[-20:]
    alphabet = st.sampled_from([*longest, " ", "e\u0301", "a\u0308\u0304", "\u1100\u1161\u11a8", "🙂", "zz"])
    text = "".join(data.draw(st.lists(alphabet | st.characters(codec="utf-8"), max_size=60)))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(text) <= len(ids) * tokenizer.max_chars_per_token


def test_the_bound_is_the_longest_token() -> None:
    assert Tokenizer(tiny.byte_level()).max_chars_per_token == max(map(len, tiny.byte_level().get_vocab()))


@pytest.mark.parametrize(
    "backend",
    [
        tiny.word_piece(),
        changed(tiny.byte_level(), normalizer={"type": "Strip", "strip_left": True, "strip_right": True}),
        changed(tiny.byte_level(), normalizer={"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}),
        changed(tiny.byte_level(), normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": ""}),
        changed(tiny.byte_level(), pre_tokenizer={"type": "WhitespaceSplit"}),
        changed(
            tiny.byte_fallback(), model=json.loads(tiny.byte_fallback().to_str())["model"] | {"byte_fallback": False}
        ),
    ],
    ids=["unknown words", "strips", "replaces a pattern", "deletes", "drops spaces", "unknown characters"],
)
def test_a_tokenizer_that_may_drop_characters_has_no_bound(backend: Backend) -> None:
    assert Tokenizer(backend).max_chars_per_token is None


def test_a_removing_split_and_an_added_token_that_takes_spaces_along_have_no_bound() -> None:
    removing = changed(tiny.byte_level())
    removing.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s"), "removed"), pre_tokenizers.ByteLevel(use_regex=False)]
    )
    greedy = changed(tiny.byte_level())
    greedy.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert Tokenizer(removing).max_chars_per_token is None
    assert Tokenizer(greedy).max_chars_per_token is None
    assert len(Tokenizer(greedy).encode(" " * 500 + "<mask>", add_special_tokens=False)) == 1


class _RecordingBackend:
    """A backend that fails where the real one holds the GIL."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def encode(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("holds the GIL: another thread stands still meanwhile")

    decode = encode

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)


def test_long_texts_go_only_through_calls_that_release_the_gil() -> None:
    tokenizer = Tokenizer(_RecordingBackend(changed(tiny.byte_level())))
    text = "fox " * 2000
    assert tokenizer.decode(tokenizer.encode(text)) == text
