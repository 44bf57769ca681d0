"""The side process that compiles forms of outputs before the engine does: one that takes too long or too much is refused.

The set-up is msgpack: `[bytes of each token, end tokens]`; a request is a `StructuredOutputs`, the answer why it cannot be
used, or nothing.
"""

import os
import sys

import msgspec

from fastserve.errors import InvalidArgumentError
from fastserve.grammars.compiler import FormCompiler
from fastserve.server.side_processes.side_child import Work, serve_parent
from fastserve.types import StructuredOutputs

# Where cores are short, the check of a form is delayed, and not the engine's next step.
NICENESS = 5

_Vocabulary = tuple[list[bytes], list[int]]


def start(setup: bytes) -> Work:
    """Return what compiles forms for the vocabulary of `setup`."""
    os.nice(NICENESS)
    compiler = FormCompiler(*msgspec.msgpack.decode(setup, type=_Vocabulary))

    def check(request: bytes) -> bytes:
        try:
            compiler.compile(msgspec.msgpack.decode(request, type=StructuredOutputs))
        except InvalidArgumentError as error:
            return str(error).encode(errors="replace")
        except MemoryError:
            return b"structured_outputs must be compiled in less memory; simplify it"
        return b""

    return check


if __name__ == "__main__":
    sys.exit(serve_parent(start))
