"""Folders and hub ids; nothing here may touch the network."""

from pathlib import Path

import pytest

from fastserve.errors import CheckpointError
from fastserve.loader import resolve
from fastserve.loader.resolve import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids that would have been downloaded; a look into the cache goes through."""
    calls: list[str] = []
    real = resolve.snapshot_download

    def fake(model: str, **options: object) -> str:
        if options.get("local_files_only"):
            return real(model, **options)
        calls.append(model)
        raise OSError("no network in tests")

    monkeypatch.setattr(resolve, "snapshot_download", fake)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return calls


def cache_model(cache: Path, *files: str) -> Path:
    """Lay out the model org/tiny as Hugging Face's cache does."""
    repo = cache / "models--org--tiny"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for file in files:
        (folder / file).write_text("{}")
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no config"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("model", ["", "/no/such/folder", "./here", "a/b/c", "../x", "a b", "org/", "a--b/c", "a/b.."])
def test_what_is_neither_folder_nor_id_is_refused(model: str, downloads: list[str]) -> None:
    with pytest.raises(CheckpointError, match="folder or a hub id"):
        resolve_model(model)
    assert downloads == []


def test_a_cached_model_is_found_without_network(tmp_path: Path, downloads: list[str]) -> None:
    folder = cache_model(tmp_path, "config.json", "model.safetensors")
    assert resolve_model("org/tiny", cache_folder=tmp_path) == folder
    assert downloads == []


def test_a_cached_config_is_enough_for_dummy_weights(tmp_path: Path, downloads: list[str]) -> None:
    folder = cache_model(tmp_path, "config.json")
    assert resolve_model("org/tiny", need_weights=False, cache_folder=tmp_path) == folder
    assert downloads == []


def test_offline_says_how_to_get_a_model(tmp_path: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"not in the local Hugging Face cache.*hf download org/tiny"):
        resolve_model("org/tiny", cache_folder=tmp_path)
    cache_model(tmp_path, "config.json")
    with pytest.raises(CheckpointError, match="is incomplete in"):
        resolve_model("org/tiny", cache_folder=tmp_path)
    assert downloads == []


def test_an_incomplete_model_is_downloaded_when_the_network_is_allowed(tmp_path: Path, downloads: list[str]) -> None:
    cache_model(tmp_path, "config.json")
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.*no network in tests"):
        resolve_model("org/tiny", cache_folder=tmp_path)
    assert downloads == ["org/tiny"]
