"""Panics of the tokenizers library. It is written in Rust, and a panic is a BaseException in Python: nothing catches it."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastserve.errors import InvalidArgumentError

PANIC = "PanicException"  # its module cannot be imported


@contextmanager
def panics_refused(what: str) -> Iterator[None]:
    """Raise a panic as InvalidArgumentError about `what`; anything else goes through.

    Most often it comes from a regular expression of the tokenizer that takes too long on some text.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != PANIC:
            raise
        raise InvalidArgumentError(f"the model's tokenizer gave up on {what}: {error!s:.200}") from None
