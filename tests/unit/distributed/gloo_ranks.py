"""Ranks as processes over gloo. As a program: `python -m tests.unit.distributed.gloo_ranks RANK SIZE FOLDER CHECKPOINT`."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from fastserve.distributed.torch_group import GlooGroup
from fastserve.models.shard import Shard

ROOT = Path(__file__).parents[3]
MOST_S = 120.0


def run_gloo_ranks(size: int) -> None:
    """Start `size` processes and compare their logits with those of this one.

    Raises:
        AssertionError: a process failed, with what it wrote; or logits differ.
    """
    from fastserve.distributed.single import SINGLE
    from tests.checkpoints import tiny_checkpoint
    from tests.sharded import load_shard, run_requests

    checkpoint = tiny_checkpoint("llama", dtype="bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.unit.distributed.gloo_ranks"]
        processes = [
            subprocess.Popen(
                [*command, str(rank), str(size), folder, str(checkpoint)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]
        try:
            written = [process.communicate(timeout=MOST_S)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * size, "\n".join(written)
        expected = run_requests(load_shard(checkpoint, Shard(), SINGLE, torch.bfloat16))
        for rank in range(size):
            assert torch.equal(torch.load(Path(folder) / f"logits-{rank}"), expected)


def main(rank: int, size: int, folder: Path, checkpoint: Path) -> None:
    """One rank: check the group, then run a shared model and keep its logits."""
    from tests.sharded import load_shard, run_requests
    from tests.unit.distributed.test_group import check_group

    store = torch.distributed.FileStore(str(folder / "store"), size)
    group = GlooGroup(store, rank, size, timeout_s=MOST_S)
    check_group(group)
    with torch.inference_mode():
        logits = run_requests(load_shard(checkpoint, Shard(rank, size), group, torch.bfloat16))
    torch.save(logits.clone(), folder / f"logits-{rank}")
    assert not torch.distributed.is_initialized()  # there is no default group
    group.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
