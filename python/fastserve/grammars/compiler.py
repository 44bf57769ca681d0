"""Texts of forms -> compiled grammars of xgrammar. Imports xgrammar, and with it torch and transformers: import it late."""

import json
import re
from collections.abc import Callable, Sequence

import xgrammar

from fastserve.errors import InvalidArgumentError
from fastserve.grammars.schema_keywords import check_keywords
from fastserve.grammars.structural_tag import read_tag
from fastserve.types import StructuredOutputs

MAX_COMPILED_BYTES = 128 << 20
MAX_REASON_CHARS = 300
# Between two parts of a JSON text: enough to indent, and a weak model cannot go on with blanks without end.
MAX_WHITESPACE = 32

# What a character of a JSON string is, in xgrammar's grammars; the strict one as in its own strings of any length.
_LOOSE_CHARACTER = r"""[^\"\\\r\n]"""
_STRICT_CHARACTER = r"""[^\0-\x1f\"\\\r\n]"""

# Of messages: when and where in the library, and the condition that failed.
_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |Check failed: \(.*?\) is false: ")


class FormCompiler:
    """Compiles forms for one vocabulary. One call at a time; what takes long releases the GIL."""

    def __init__(self, table: list[bytes], end_token_ids: Sequence[int]) -> None:
        """Prepare for a vocabulary.

        Args:
            table: see `token_table`.
            end_token_ids: tokens that end an output; a form allows them where it is complete.
        Raises:
            InvalidArgumentError: there are none.
        """
        if not end_token_ids:
            raise InvalidArgumentError(
                "structured_outputs needs an end-of-sequence token, with which an output ends; neither this model nor its"
                " tokenizer names one"
            )
        vocabulary = xgrammar.TokenizerInfo(
            table, xgrammar.VocabType.RAW, vocab_size=len(table), stop_token_ids=list(end_token_ids)
        )
        self._compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=False)

    def compile(self, form: StructuredOutputs) -> xgrammar.CompiledGrammar:
        """Compile a form.

        Raises:
            InvalidArgumentError: it is malformed, or uses what is not supported; the message says what.
        """
        name, call = self._call(form)
        try:
            compiled = call()
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"structured_outputs.{name}: {error}") from None
        except (RuntimeError, ValueError, RecursionError, TypeError) as error:
            raise InvalidArgumentError(f"structured_outputs.{name} cannot be used: {_reason(error)}") from None
        if compiled.memory_size_bytes > MAX_COMPILED_BYTES:
            raise InvalidArgumentError(
                f"structured_outputs.{name} takes {compiled.memory_size_bytes >> 20} MiB when compiled and may take"
                f" {MAX_COMPILED_BYTES >> 20} MiB; simplify it"
            )
        return compiled

    def _call(self, form: StructuredOutputs) -> tuple[str, Callable[[], xgrammar.CompiledGrammar]]:
        compiler = self._compiler
        if (schema := form.json) is not None:
            return "json", lambda: self._compile_schema(schema)
        if form.json_object:
            return "json_object", lambda: self._compile_schema('{"type": "object"}')
        if (regex := form.regex) is not None:
            return "regex", lambda: compiler.compile_regex(regex)
        if (grammar := form.grammar) is not None:
            return "grammar", lambda: compiler.compile_grammar(grammar)
        if (tag := form.structural_tag) is not None:
            return "structural_tag", lambda: self._compile_tag(tag)
        return "choice", lambda: compiler.compile_grammar(f"root ::= {' | '.join(map(_literal, form.choice))}")

    def _compile_schema(self, text: str) -> xgrammar.CompiledGrammar:
        check_keywords(json.loads(text))
        return self._compile_json(xgrammar.Grammar.from_json_schema(text, max_whitespace_cnt=MAX_WHITESPACE))

    def _compile_tag(self, text: str) -> xgrammar.CompiledGrammar:
        tag = read_tag(text)
        for schema in _schemas_of(tag):
            check_keywords(schema)
        return self._compile_json(xgrammar.Grammar.from_structural_tag(json.dumps(tag)))

    def _compile_json(self, grammar: xgrammar.Grammar) -> xgrammar.CompiledGrammar:
        """Compile a grammar with JSON in it, whose strings of limited length would take control characters (xgrammar 0.2.9)."""
        text = str(grammar)
        if _LOOSE_CHARACTER in text:
            grammar = xgrammar.Grammar.from_ebnf(text.replace(_LOOSE_CHARACTER, _STRICT_CHARACTER))
        return self._compiler.compile_grammar(grammar)


def _schemas_of(tag: object) -> list[object]:
    """The JSON schemas within a structural tag."""
    found, left = [], [tag]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            found += [part[name] for name in ("json_schema", "schema") if name in part]
            left += [value for name, value in part.items() if name not in ("json_schema", "schema")]
        elif isinstance(part, list):
            left += part
    return found


def _literal(text: str) -> str:
    """A text as a literal of an EBNF grammar."""
    if not text.isprintable() or '"' in text or "\\" in text:
        text = "".join(character if _is_plain(character) else f"\\U{ord(character):08x}" for character in text)
    return f'"{text}"'


def _is_plain(character: str) -> bool:
    return character.isprintable() and character not in '"\\'


def _reason(error: Exception) -> str:
    text = _PLACE.sub("", str(error)).strip() or type(error).__name__
    text = " ".join(text.partition("The JSON string is:")[0].split())
    return text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "..."
