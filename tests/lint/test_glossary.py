"""One word per thing: words that the glossary of ARCHITECTURE.md replaces, and people-words for machines, occur nowhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
FOLDERS = ("python", "csrc", "docs", "tests", "bench", "third_party")
SUFFIXES = {".py", ".pyi", ".h", ".cc", ".cu", ".cuh", ".md", ".toml", ".sh", ".cmake", ".txt"}
MAX_GLOSSARY = 45

# word or phrase -> why it is banned. Words of a phrase may be joined by "_", "-" or nothing (made_up, made-up, MadeUp).
PEOPLE_WORDS = {
    "whoever": "name the thing: the request, thread or process that ...",
    "nobody": "name the thing: no request, no thread, no caller",
    "somebody": "name the thing: a request, a thread, a caller",
    "everybody": "name the thing: all requests, all clients",
    "anew": "again",
    "lest": "so that ... not",
    "told": "machines get, read or receive values; events are delivered",
    "for ever": "forever, or without end",
}
# path (or folder) -> banned words that it may have, because they are meant literally
ALLOWED = {
    "tests/lint/test_glossary.py": "all of them, as a list",
    "tests/checkpoints.py": "natural text that trains a tokenizer",
    "third_party/lock": "names of packages",
}


def glossary() -> dict[str, tuple[str, str]]:
    """Word -> (meaning, the words that it replaces), from the table."""
    section = TEXT.split("## Glossary")[1]
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]*?) ?\|$", section, re.MULTILINE)
    return {word: (meaning, replaced) for word, meaning, replaced in rows if word not in ("word", "---")}


def banned() -> dict[str, str]:
    replaced = {
        old: f"the glossary's word is {word}"
        for word, (_, words) in glossary().items()
        for old in re.split(r", ", words)
        if old
    }
    return PEOPLE_WORDS | replaced


def pattern_of(phrase: str) -> re.Pattern[str]:
    """Match a phrase as words of a text, and as a part of snake_case and CamelCase names."""
    words = phrase.split()
    camel = "".join(word.capitalize() for word in words)
    spaced = r"[-_\s]+".join(map(re.escape, words))
    return re.compile(rf"(?<![A-Za-z])(?i:{spaced})(?![A-Za-z])|(?<![A-Z]){camel}(?![a-z])")


def files() -> Iterator[Path]:
    yield from (path for path in ROOT.glob("*.md") if path.name not in ("ARCHITECTURE.md", "CHANGELOG.md"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def findings(text: str) -> list[str]:
    """The banned words of a text, each with its line and its reason."""
    found = []
    for phrase, why in banned().items():
        for match in pattern_of(phrase).finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: {match[0]!r}: {why}")
    return found


def is_allowed(path: Path) -> bool:
    name = str(path.relative_to(ROOT))
    return any(name == allowed or name.startswith(allowed + "/") for allowed in ALLOWED)


def test_the_glossary_is_short_and_has_no_word_twice():
    words = [word for entry in glossary() for word in entry.split(" / ")]
    assert 30 <= len(glossary()) <= MAX_GLOSSARY
    assert len(words) == len(set(words))
    assert not set(words) & set(banned())


@pytest.mark.parametrize(
    "text", ["it is told", "made_up_rows", "MadeUpRows", "a made-up row", "made\nup", "Whoever asks"]
)
def test_a_banned_word_is_found_in_any_spelling(text):
    assert findings(text)


@pytest.mark.parametrize("text", ["untold", "Hugging Face", "an interface", "the surface"])
def test_a_word_that_only_looks_like_one_is_not_found(text):
    assert not findings(text)


def test_no_file_has_a_banned_word():
    found = {
        str(path.relative_to(ROOT)): words
        for path in files()
        if not is_allowed(path) and (words := findings(path.read_text()))
    }
    assert not found


def test_the_text_before_the_glossary_has_no_banned_word():
    assert findings(TEXT.split("## Glossary")[0]) == []
