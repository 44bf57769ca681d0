"""The API keys of a server, from its flags and a file. No key is ever logged or repeated in an error."""

import csv
import hashlib
import hmac
import io
import stat
from collections.abc import Iterator
from pathlib import Path

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.log import get_logger

# Each request is compared with every key.
MAX_KEYS = 1000
MAX_KEY_CHARS = 1024
MAX_FILE_BYTES = 4 << 20
COLUMNS = ("name", "key")

logger = get_logger(__name__)


class ApiKeys:
    """Keys that open the server; empty = it asks for none."""

    def __init__(self, config: ServerConfig) -> None:
        """Gather the keys.

        Raises:
            InvalidArgumentError: a key is not one, or is given twice; the file cannot be read, or is not a file of keys.
        """
        where_of: dict[bytes, str] = {}
        for key in config.api_key:
            where_of[_digest(_checked(key, "--api-key or the environment"))] = "--api-key or the environment"
        names: set[str] = set()
        for where, name, key in _rows(config.api_keys_file):
            digest = _digest(_checked(key, where))
            if (other := where_of.setdefault(digest, where)) != where:
                raise InvalidArgumentError(f"a key must be given once, {where} has that of {other}; remove one")
            if not name or name in names:
                raise InvalidArgumentError(f"{where} must give its key a name of its own; it is blank or taken")
            names.add(name)
        if len(where_of) > MAX_KEYS:
            raise InvalidArgumentError(f"there must be at most {MAX_KEYS} API keys, got {len(where_of)}")
        self._digests = tuple(where_of)

    def __len__(self) -> int:
        return len(self._digests)

    def admit(self, token: bytes) -> bool:
        """Whether a token is one of the keys.

        Digests are compared, each in constant time and always all of them, so neither the length nor a prefix of a key
        leaks through timing, nor which one it is.
        """
        digest = _digest(token)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _checked(key: str, where: str) -> bytes:
    key = key.strip()  # a secret's file often ends in a newline, and a header's value never does
    if not key or len(key) > MAX_KEY_CHARS or not (key.isascii() and key.isprintable()):
        rule = f"must be 1 to {MAX_KEY_CHARS} printable ASCII characters, which is what a header can hold"
        raise InvalidArgumentError(f"{where}: a key {rule}, got {len(key)} characters")
    return key.encode()


def _rows(path: str | None) -> Iterator[tuple[str, str, str]]:
    """(place, name, key) of each row of a CSV file whose first line names the columns."""
    if path is None:
        return
    reader = csv.reader(io.StringIO(_read(path), newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            # What the first line holds may be a key.
            raise InvalidArgumentError(
                f"the first line of api_keys_file {path} must name the columns, {','.join(COLUMNS)}, each once"
            )
        num_rows = 0
        for row in reader:
            if not "".join(row).strip():
                continue
            where = f"{path} line {reader.line_num}"
            if len(row) != len(header):
                raise InvalidArgumentError(f"{where} must have {len(header)} columns, got {len(row)}")
            cells = dict(zip(header, row, strict=True))
            num_rows += 1
            yield where, cells["name"].strip(), cells["key"]
    except csv.Error as error:
        raise InvalidArgumentError(f"{path} line {reader.line_num} must be CSV: {error}") from None
    if not num_rows:
        raise InvalidArgumentError(
            f"api_keys_file must hold at least one key, {path} has none; leave it out for no keys"
        )


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            if stat.S_ISREG(mode := Path(path).stat().st_mode) and mode & stat.S_IROTH:
                logger.warning("every user of this machine may read the API keys in %s: chmod 600", path)
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidArgumentError(f"api_keys_file must be at most {MAX_FILE_BYTES} bytes, {path} is longer")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidArgumentError(f"api_keys_file cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"api_keys_file {path} must be UTF-8: bad byte at offset {error.start}") from None
