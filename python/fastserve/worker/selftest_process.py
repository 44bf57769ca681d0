"""`check_attention` in a process of its own: a kernel that hangs or faults there ends that process, not the one that serves."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

import torch

from fastserve.ops.attention_batch import AttentionBackend
from fastserve.ops.attention_selftest import VERDICT

TIMEOUT_S = 120.0
KILL_WAIT_S = 10.0


class AttentionSelfTest:
    """A check under way: started by the constructor, asked by `faults`, ended by `close`.

    It takes as long as a start of Python with torch and CUDA, so start it before something that takes longer.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        head_dim: int,
        num_q_heads: int,
        num_kv_heads: int,
        block_size: int,
        backend: AttentionBackend,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Start the process; arguments as of `check_attention`.

        Args:
            timeout_s: a process that still runs so long after its start, when it is asked, is ended.
        """
        shape = {
            "head_dim": head_dim,
            "num_q_heads": num_q_heads,
            "num_kv_heads": num_kv_heads,
            "block_size": block_size,
            "backend": backend.value,
        }
        words = [str(device), str(dtype).removeprefix("torch."), json.dumps(shape)]
        self.seconds: float | None = None
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`); a pipe without a reader fills up
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastserve.ops.attention_selftest", *words],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def faults(self) -> list[str]:
        """Wait for the end and return what `check_attention` found; whatever else happened is a fault of the kernels too.

        `seconds` then says how long the check took, None where it did not end.
        """
        try:
            status = self._process.wait(max(0.0, self._deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._kill()
            return [f"the check did not end within {self._timeout_s:g} s"]
        self._output.seek(0)
        text = self._output.read().decode(errors="replace").strip()
        if status != 0 or VERDICT not in text:
            return [f"the process of the check ended with {status}: {text.rpartition(chr(10))[2]}"]
        verdict = json.loads(text.rpartition(VERDICT)[2].partition("\n")[0])
        self.seconds = verdict["seconds"]
        return [str(fault) for fault in verdict["faults"]]

    def close(self) -> None:
        """End the process if it still runs; may be called again."""
        if self._process.poll() is None:
            self._kill()
        self._output.close()

    def _kill(self) -> None:
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the driver may hold a process whose kernel hangs
            self._process.wait(KILL_WAIT_S)
