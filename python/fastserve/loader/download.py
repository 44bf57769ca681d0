"""A download in its own process, which shows progress bars on standard error and can be stopped at any moment.

Started as `python -m fastserve.loader.download` with the fields of `WantedFiles` as JSON on standard input; prints one JSON
object, `{"folder": ...}` or `{"error": ...}`.
"""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from fastserve.child import child_environment, die_with_parent
from fastserve.errors import CheckpointError
from fastserve.loader.resolve import WantedFiles
from fastserve.log import configure_logging, log_settings


async def download(wanted: WantedFiles) -> Path:
    """Return the folder of the files, downloaded in a process that ends when the caller is cancelled.

    Raises:
        CheckpointError: as `WantedFiles.get`.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fastserve.loader.download", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    fields = dataclasses.asdict(wanted) | {"cache_folder": wanted.cache_folder and str(wanted.cache_folder)}
    request = json.dumps({"files": fields, "log": log_settings()}).encode()
    try:
        output, _ = await asyncio.to_thread(process.communicate, request)
    finally:
        process.kill()  # when cancelled; the thread then comes to its end
    try:
        answer = json.loads(output)
    except ValueError:
        raise CheckpointError(
            f"{wanted.what} {wanted.name} cannot be downloaded: the process ended with status {process.returncode}"
        ) from None
    if "error" in answer:
        raise CheckpointError(answer["error"])
    return Path(answer["folder"])


def main() -> None:
    """Entry of the process; see the module's docstring."""
    # Signals of a terminal or a service manager reach the whole process group; the parent decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not die_with_parent(int(sys.argv[1])):
        return
    from huggingface_hub.utils.tqdm import disable_progress_bars

    request = json.load(sys.stdin)
    level, json_lines = request["log"]
    configure_logging(level, json_lines=json_lines)
    if not sys.stderr.isatty():
        disable_progress_bars()
    fields = request["files"]
    fields["cache_folder"] = fields["cache_folder"] and Path(fields["cache_folder"])
    try:
        answer = {"folder": str(WantedFiles(**fields).get())}
    except CheckpointError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
