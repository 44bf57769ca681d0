"""Keys from flags and a file; what cannot be used ends the start, and no key is ever shown."""

from pathlib import Path

import pytest

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.server.keys import MAX_FILE_BYTES, MAX_KEYS, ApiKeys


def keys_of(tmp_path: Path, text: str | bytes, *flags: str) -> ApiKeys:
    """The keys of a file with this text, and of flags."""
    path = tmp_path / "keys.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return ApiKeys(ServerConfig(api_key=flags, api_keys_file=str(path)))


def test_each_key_of_the_flags_opens_and_nothing_else():
    keys = ApiKeys(ServerConfig(api_key=("one", "two\n", "one")))
    assert len(keys) == 2
    assert keys.admit(b"one") and keys.admit(b"two")
    assert not any(keys.admit(token) for token in (b"", b"on", b"onee", b"ONE", b"onetwo", "öne".encode()))


def test_without_keys_there_are_none():
    assert not ApiKeys(ServerConfig())


@pytest.mark.parametrize(
    "text",
    [
        "name,key\nann,one\nbob,two\n",
        "key,name\r\none,ann\r\n\r\ntwo,bob\r\n",
        b'\xef\xbb\xbfname,key\nann,"one"\nbob, two ',
    ],
)
def test_keys_of_a_file_open_beside_those_of_flags(tmp_path, text):
    keys = keys_of(tmp_path, text, "three")
    assert len(keys) == 3
    assert all(keys.admit(token) for token in (b"one", b"two", b"three"))
    assert not any(keys.admit(token) for token in (b"ann", b"key", b"name"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must name the columns, name,key"),
        ("SECRET\n", "must name the columns, name,key"),
        ("name,key,weight\nann,SECRET,1\n", "must name the columns, name,key"),
        ("name,name\nann,SECRET\n", "must name the columns, name,key"),
        ("name,key\n", "must hold at least one key"),
        ("name,key\n\n , \n", "must hold at least one key"),
        ("name,key\nann,SECRET\nbob,SECRET\n", "line 3 has that of .*keys.csv line 2; remove one"),
        ("name,key\nann,SECRET\nann,SECRET2\n", "line 3 must give its key a name of its own"),
        ("name,key\n,SECRET\n", "line 2 must give its key a name of its own"),
        ("name,key\nann, \n", "line 2: a key must be 1 to 1024 printable ASCII characters.*got 0 characters"),
        ("name,key\nann,SECRET\N{SNOWMAN}\n", "line 2: a key must be"),
        ("name,key\nann,SECRET\x07\n", "line 2: a key must be"),
        (f"name,key\nann,{'SECRET' * 200}\n", "line 2: a key must be"),
        ("name,key\nann\n", "line 2 must have 2 columns, got 1"),
        ("name,key\nann,SECRET,x\n", "line 2 must have 2 columns, got 3"),
        ('name,key\nann,"SECRET\n', "must be CSV"),
        (b"name,key\nann,SECRET\xff\n", "must be UTF-8: bad byte at offset"),
        ("name,key\n" + "x" * MAX_FILE_BYTES, f"must be at most {MAX_FILE_BYTES} bytes"),
        ("name,key\n" + "".join(f"n{i},SECRET{i}\n" for i in range(MAX_KEYS + 1)), f"at most {MAX_KEYS} API keys"),
    ],
)  # fmt: skip
def test_file_that_cannot_be_used_is_refused_without_a_word_of_its_keys(tmp_path, text, words):
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        keys_of(tmp_path, text)
    assert "SECRET" not in str(caught.value)


def test_key_of_the_file_that_a_flag_repeats_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="line 2 has that of --api-key or the environment"):
        keys_of(tmp_path, "name,key\nann,SECRET\n", "SECRET")


def test_unreadable_file_is_refused(tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(InvalidArgumentError, match="api_keys_file cannot be read"):
            ApiKeys(ServerConfig(api_keys_file=str(path)))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_file_that_every_user_may_read_is_warned_of(tmp_path, caplog, mode, warned):
    path = tmp_path / "keys.csv"
    path.write_text("name,key\nann,SECRET\n")
    path.chmod(mode)
    with caplog.at_level("DEBUG", "fastserve"):
        assert ApiKeys(ServerConfig(api_keys_file=str(path)))
    assert ("chmod 600" in caplog.text) == warned
    assert "SECRET" not in caplog.text


def test_every_key_is_compared_whichever_fits(monkeypatch):
    seen = []
    monkeypatch.setattr("fastserve.server.keys.hmac.compare_digest", lambda a, b: seen.append(b) or a == b)
    keys = ApiKeys(ServerConfig(api_key=("one", "two", "three")))
    assert keys.admit(b"one")
    assert len(seen) == 3
