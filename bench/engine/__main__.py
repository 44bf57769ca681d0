"""CPU time of the frontend per token, with an engine process that has no model: `python -m bench.engine [--json FILE]`."""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from bench.lib.report import write_json
from fastserve.config import EngineConfig, ModelConfig
from fastserve.engine.async_engine import AsyncEngine
from fastserve.types import SamplingParams
from tests.unit.tokenizer import tiny

CASES = {
    "plain": SamplingParams(ignore_eos=True),
    "stop strings": SamplingParams(ignore_eos=True, stop=("###", "\nUser:")),
    "5 logprobs": SamplingParams(ignore_eos=True, logprobs=5),
}


async def frontend_us_per_token(
    folder: Path, sampling: SamplingParams, *, batch: int, tokens: int, rounds: int
) -> list[float]:
    """CPU microseconds of this process per output token, while `batch` streams run at one token per 2 ms each."""
    config = EngineConfig(model=ModelConfig(model=str(folder)))
    engine = await AsyncEngine.start(config, core_factory="tests.unit.engine.fake_core:make_paced")

    async def stream(name: str, max_tokens: int) -> None:
        params = SamplingParams(ignore_eos=True, stop=sampling.stop, logprobs=sampling.logprobs, max_tokens=max_tokens)
        async for _ in engine.generate([[11, 21, 31]], params, request_id=name):
            pass

    samples = []
    for i in range(rounds + 1):
        count = tokens if i else 20  # the first round warms up
        started_s = time.process_time()
        await asyncio.gather(*(stream(str(k), count) for k in range(batch)))
        samples.append((time.process_time() - started_s) / (batch * count) * 1e6)
    await engine.close()
    return samples[1:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw sample to FILE")
    parser.add_argument("--tokens", type=int, default=200, help="per stream and round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = tiny.save(Path(name))
        for batch in (1, 16, 64):
            for case, sampling in CASES.items():
                samples = asyncio.run(
                    frontend_us_per_token(
                        folder, sampling, batch=batch, tokens=arguments.tokens, rounds=arguments.rounds
                    )
                )
                low, high = min(samples), max(samples)
                middle = statistics.median(samples)
                print(f"batch {batch:3d}  {case:12s}  {middle:6.1f} us/token  ({low:.1f} .. {high:.1f})")
                results.append({"batch": batch, "case": case, "us_per_token": samples})
    if arguments.json:
        write_json(arguments.json, config={"tokens": arguments.tokens, "step_s": 0.002}, results=results)


if __name__ == "__main__":
    main()
