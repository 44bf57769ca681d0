"""Hardware counters of the attention kernels, where ncu reads them: `python -m bench.gpu.profile FILE PROGRAM --text TEXT`.

Profiles one launch of gpu_smoke's timings each. FILE gets an item per kernel, TEXT the whole output of ncu. Imports nothing
beyond the standard library.
"""

import argparse
import re
import subprocess
from pathlib import Path

from bench.gpu.progress import Progress, run_item

SHAPES = (
    "decode bf16 32/8 d128 p16 4096:1*32",
    "hopper bf16 16/16 d128 p16 4096:4096*2",
    "mma bf16 16/16 d128 p16 4096:4096*2",
)
KERNEL_OF = {"decode": "decode_kernel", "hopper": "hopper_kernel", "mma": "prefill_kernel"}
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "ComputeWorkloadAnalysis", "Occupancy", "WarpStateStats", "SchedulerStats",
            "LaunchStats")  # fmt: skip
WARM_UP = 2  # launches
METRIC = re.compile(r"^ {4,}(\S[^\n]*?) {2,}(\S+) +([\d,.]+)\s*$", re.MULTILINE)
LIMIT_S = 30.0


def metrics_of(text: str) -> dict[str, str]:
    """Names, values and units of the table that ncu prints."""
    return {name: f"{value} {unit}" for name, unit, value in METRIC.findall(text)}


def profile(shape: str, program: str, text: Path) -> dict[str, object]:
    """Profile one launch; RuntimeError with the last words of ncu when it has read nothing."""
    command = ["ncu", "--clock-control", "none", "--kernel-name", f"regex:{KERNEL_OF[shape.partition(' ')[0]]}"]
    command += ["--launch-skip", str(WARM_UP), "--launch-count", "1"]
    command += [word for section in SECTIONS for word in ("--section", section)]
    command += [program, "--child", f"time {shape}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    with text.open("a") as file:
        file.write(f"== {shape}\n{done.stdout}{done.stderr}\n")
    metrics = metrics_of(done.stdout)
    if not metrics:
        raise RuntimeError((done.stdout + done.stderr).strip()[-500:] or "ncu has printed nothing")
    return {"metrics": metrics}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.profile", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="items, as JSON lines")
    parser.add_argument("program", help="gpu_smoke")
    parser.add_argument("--text", type=Path, required=True, help="the output of ncu is added to it")
    args = parser.parse_args()
    progress = Progress(args.file)
    for shape in SHAPES:
        run_item(progress, shape, lambda shape=shape: profile(shape, args.program, args.text))
    progress.done()
    return 0 if all(item["outcome"] == "ok" for item in progress.ended.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
