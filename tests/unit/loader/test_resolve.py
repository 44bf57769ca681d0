"""Folders and hub ids; the hub is one on this machine."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.loader.download import download
from fastserve.loader.kind import INDEX, SINGLE
from fastserve.loader.resolve import WantedFiles
from tests.fake_hub import FakeHub, running_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub() as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


def wanted(name: str, cache: Path | None = None, **fields: object) -> WantedFiles:
    return WantedFiles(**{"what": "model", "name": name, "need_weights": True, "cache_folder": cache} | fields)


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Each file has other bytes: the hub's client takes a file with the bytes of another from its cache.
        (folder / name).write_text(json.dumps({"name": name, "weight_map": {"x": "model-1.safetensors"}}))
    return folder


def cache_model(cache: Path, *files: str) -> Path:
    """Lay out the model org/tiny as Hugging Face's cache does."""
    repo = cache / "models--org--tiny"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return write(repo / "snapshots" / COMMIT, *files)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert wanted(str(write(tmp_path, "config.json"))).get() == tmp_path


NOT_LOADABLE = {
    "nothing": ((), "has no config.json"),
    "adapter": (("adapter_config.json", "adapter_model.safetensors"), "LoRA adapter.*merge_and_unload"),
    "GGUF": (("tiny-Q4_K_M.gguf", "README.md"), r"GGUF files \(tiny-Q4_K_M.gguf\), which are not supported"),
    "own format": (("params.json", "consolidated.00.pth"), r"publisher's own format \(params.json\)"),
}
NO_WEIGHTS = {
    "pickles": (("config.json", "pytorch_model.bin"), r"pickled weights \(pytorch_model.bin\).*save_pretrained"),
    "adapter beside config": (("config.json", "adapter_config.json"), "LoRA adapter"),
    "GGUF beside config": (("config.json", "tiny.gguf"), "GGUF files"),
    "no weights": (("config.json",), f"neither {SINGLE} nor {INDEX}"),
}


@pytest.mark.parametrize("case", NOT_LOADABLE)
def test_a_folder_of_another_kind_is_refused_with_a_sentence_of_its_own(tmp_path: Path, case: str) -> None:
    names, sentence = NOT_LOADABLE[case]
    with pytest.raises(CheckpointError, match=f"^{tmp_path} .*{sentence}"):
        wanted(str(write(tmp_path, *names))).get()


@pytest.mark.parametrize("case", [*NOT_LOADABLE, *NO_WEIGHTS])
def test_a_repository_of_another_kind_is_refused_before_anything_is_downloaded(
    tmp_path: Path, hub: FakeHub, case: str
) -> None:
    names, sentence = (NOT_LOADABLE | NO_WEIGHTS)[case]
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "sub/config.json", *names)
    with pytest.raises(CheckpointError, match=f"^model org/tiny .*{sentence}"):
        wanted("org/tiny", tmp_path / "cache").get()
    assert not any("/resolve/" in path for path in hub.requests)


@pytest.mark.parametrize(
    ("name", "kind"), [("tiny.gguf", "a GGUF file, which is not supported"), ("tiny.bin", "a file")]
)
def test_a_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"model must be a folder.*{name} is {kind}"):
        wanted(str(write(tmp_path, name) / name)).get()


@pytest.mark.parametrize("what", ["model", "tokenizer"])
@pytest.mark.parametrize("name", ["", "/no/such/folder", "./here", "a/b/c", "../x", "a b", "org/", "a--b/c", "a/b.."])
def test_what_is_neither_folder_nor_id_is_refused(name: str, what: str, hub: FakeHub) -> None:
    error_type = CheckpointError if what == "model" else InvalidArgumentError
    with pytest.raises(error_type, match=f"{what} must be a folder or a hub id.*no such folder"):
        wanted(name, what=what).get()
    assert hub.requests == []


def test_a_model_is_downloaded_once_and_then_taken_from_the_cache(tmp_path: Path, hub: FakeHub) -> None:
    files = ("config.json", "tokenizer.json", "chat_template.jinja", "tokenizer.model", SINGLE)
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "README.md", "pytorch_model.bin", *files)
    folder = wanted("org/tiny", tmp_path / "cache").get()
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    hub.requests.clear()
    assert wanted("org/tiny", tmp_path / "cache").get() == folder
    assert hub.requests == []


def test_a_sharded_model_is_whole_with_all_its_files(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "config.json", INDEX, "model-1.safetensors")
    folder = wanted("org/tiny", tmp_path / "cache").get()
    (folder / "model-1.safetensors").unlink()
    assert wanted("org/tiny", tmp_path / "cache").find() is None
    assert wanted("org/tiny", tmp_path / "cache").get() == folder
    assert (folder / "model-1.safetensors").is_file()


def test_dummy_weights_need_no_download_of_weights(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "config.json", SINGLE)
    folder = wanted("org/tiny", tmp_path / "cache", need_weights=False).get()
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_tokenizer_of_its_own_is_downloaded_without_weights(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "tokenizer.json", SINGLE)
    folder = wanted("org/tiny", tmp_path / "cache", what="tokenizer", need_weights=False).get()
    assert [path.name for path in folder.iterdir()] == ["tokenizer.json"]


def test_a_revision_is_asked_for(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "config.json", SINGLE)
    commit = hub.commit("org/tiny")
    assert wanted("org/tiny", tmp_path / "cache", revision=commit).get().name == commit
    with pytest.raises(CheckpointError, match=r"model org/tiny \(revision v2\) cannot be downloaded.*this revision"):
        wanted("org/tiny", tmp_path / "cache", revision="v2").get()


def test_a_name_that_the_hub_does_not_know_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="model org/none cannot be downloaded: the hub has none of this name"):
        wanted("org/none", tmp_path).get()


def test_a_hub_that_cannot_be_reached_is_named_as_the_reason(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    with pytest.raises(CheckpointError, match="cannot be downloaded: ConnectionError: no route to host; get it once"):
        wanted("org/tiny", tmp_path).get()


def test_offline_says_how_to_get_a_model(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"not whole, in the local Hugging Face cache.*hf download org/tiny"):
            wanted("org/tiny", tmp_path).get()
        cache_model(tmp_path, "config.json")
    assert hub.requests == []


def test_a_cache_that_another_tool_has_filled_is_enough(tmp_path: Path, hub: FakeHub) -> None:
    folder = cache_model(tmp_path, "config.json", SINGLE)
    assert wanted("org/tiny", tmp_path).get() == folder
    assert hub.requests == []


async def test_a_download_in_a_process_of_its_own_gives_the_folder_or_the_reason(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "config.json", SINGLE)
    found = wanted("org/tiny", tmp_path / "cache")
    assert await download(found) == found.find()
    with pytest.raises(CheckpointError, match="the hub has none of this name"):
        await download(wanted("org/none", tmp_path / "cache"))


async def test_a_download_ends_when_its_caller_is_cancelled(tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "config.json", SINGLE)
    hub.stalled.add(SINGLE)
    task = asyncio.create_task(download(wanted("org/tiny", tmp_path / "cache")))
    stalling = asyncio.create_task(asyncio.to_thread(hub.stalling.wait))
    await asyncio.wait((task, stalling), return_when=asyncio.FIRST_COMPLETED)
    hub.stalling.set()
    assert not task.done(), task
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wanted("org/tiny", tmp_path / "cache").find() is None


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_a_cached_folder_that_another_program_left_without_a_tokenizer_is_not_whole(
    tmp_path: Path, hub: FakeHub, what: str
) -> None:
    cache = tmp_path / "cache"
    cache_model(cache, "config.json", SINGLE)
    hub.repositories["org/tiny"] = write(tmp_path / "repository", "config.json", SINGLE, "tokenizer.json")
    need_weights = what == "model"
    assert wanted("org/tiny", cache, what=what, need_weights=need_weights).find() is not None
    folder = wanted("org/tiny", cache, what=what, need_weights=need_weights, need_tokenizer=True).get()
    assert (folder / "tokenizer.json").is_file()
