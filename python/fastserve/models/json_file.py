"""JSON files of a checkpoint folder: bounded in size and depth, every complaint names the file."""

import json
from pathlib import Path

from fastserve.errors import CheckpointError

MAX_FILE_BYTES = 16 << 20


def read_json_object(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> dict[str, object]:
    """Read a file that holds one JSON object.

    Raises:
        CheckpointError: it cannot be read, is larger than `max_bytes`, or is not a JSON object.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise CheckpointError(f"{path} must have at most {max_bytes} bytes, found {path.stat().st_size}")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error!s:.200}); download the checkpoint again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, found {type(values).__name__}")
    return values
