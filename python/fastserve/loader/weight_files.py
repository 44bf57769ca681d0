"""The weight files of a checkpoint folder, according to its index."""

from pathlib import Path

from fastserve.errors import CheckpointError
from fastserve.loader.kind import INDEX, SINGLE, listed, why_not_loadable
from fastserve.models.json_file import read_json_object

MAX_INDEX_BYTES = 32 << 20


def _indexed_files(index: Path) -> dict[str, set[str]]:
    """File name -> tensors that the index of a sharded checkpoint places there."""
    weight_map = read_json_object(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names; download the checkpoint again")
    files: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: {tensor} must lie in a .safetensors file of this folder, found {file!r:.200}"
            )
        files.setdefault(file, set()).add(tensor)
    return files


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The weight files of a checkpoint; per file the tensors that must be in it, None = whichever are.

    Raises:
        CheckpointError: there are none, the index is broken, or a file that it names is missing.
    """
    index = folder / INDEX
    if index.is_file():
        files = {folder / name: tensors for name, tensors in _indexed_files(index).items()}
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {listed(missing)}, named in {INDEX}; download the checkpoint again")
        return dict(sorted(files.items()))
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    names = [path.name for path in folder.iterdir()]
    raise CheckpointError(why_not_loadable(str(folder), names, need_weights=True))
