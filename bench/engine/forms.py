"""What the form of an output costs: steps of a batch with a JSON schema beside steps of the same batch without.

`python -m bench.engine.forms [--json FILE]`, on the benchmark model and a vocabulary of its size. Rounds with and without a
form take turns in one engine; outputs of both have the same lengths, since the schema's array never ends.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench.lib.report import write_json
from bench.serving.model import CONFIG, build_benchmark_model
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.engine.core import EngineCore
from fastserve.engine.request import EngineRequest
from fastserve.types import SamplingParams, StructuredOutputs

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", "bird"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
    },
    "required": ["name", "age", "kind", "tags"],
}
ENDLESS = StructuredOutputs(json=json.dumps({"type": "array", "items": PERSON, "minItems": 10_000}))
PROMPT_TOKENS = 32


def save_byte_level_tokenizer(folder: Path) -> None:
    """Replace the model's tokenizer by one whose tokens stand for bytes: words of random letters, digits and marks."""
    rng = np.random.default_rng(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = np.array([*"etaoinshrdlucmfwypvbgk" * 3, *'0123456789"{}[]:,.', "Ġ", "Ġ", "Ċ"])
    tokens = dict.fromkeys(["<unk>", "<s>", "</s>", *alphabet])
    while len(tokens) < CONFIG["vocab_size"]:
        tokens["".join(rng.choice(letters, rng.integers(2, 9)))] = None
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def step_times_s(
    core: EngineCore, form: StructuredOutputs | None, first_id: int, batch: int, tokens: int
) -> list[float]:
    """Seconds of the steps in which `batch` streams decode, each to `tokens` tokens."""
    rng = np.random.default_rng(first_id)
    for i in range(batch):
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True, seed=i, structured_outputs=form)
        prompt = rng.integers(300, CONFIG["vocab_size"], PROMPT_TOKENS).tolist()
        core.add_request(EngineRequest.of(first_id + i, prompt, sampling))
    times_s = []
    while core.has_work():
        started_s = time.perf_counter()
        outputs = core.step()
        if len(outputs) == batch and not any(output.finish_reason for output in outputs):
            times_s.append(time.perf_counter() - started_s)
    return times_s[1:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine.forms", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw sample to FILE")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24, help="per stream and round")
    parser.add_argument("--rounds", type=int, default=24, help="with a form, and as many without")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = build_benchmark_model(Path(name) / "model")
        save_byte_level_tokenizer(folder)
        config = EngineConfig(
            model=ModelConfig(model=str(folder), device="cpu", max_model_len=512),
            cache=CacheConfig(num_gpu_blocks_override=16 * 32, num_host_blocks_override=0),
            scheduler=SchedulerConfig(max_num_seqs=arguments.batch, scheduling_policy="fcfs"),
        )
        core = EngineCore.from_config(config)
        try:
            rounds = measure(core, arguments.batch, arguments.tokens, arguments.rounds)
        finally:
            core.close()
    medians = {case: [statistics.median(times) * 1e3 for times in rounds[case]] for case in rounds}
    for case, values in medians.items():
        print(
            f"{case:12s} {statistics.median(values):7.2f} ms per step  ({min(values):.2f} .. {max(values):.2f} by round)"
        )
    ratios = [form / plain for form, plain in zip(medians["with form"], medians["without"], strict=True)]
    print(
        f"ratio        {statistics.median(ratios):7.3f}            ({min(ratios):.3f} .. {max(ratios):.3f} by pair of rounds)"
    )
    if arguments.json:
        settings = {"batch": arguments.batch, "tokens": arguments.tokens, "prompt_tokens": PROMPT_TOKENS}
        write_json(
            arguments.json, config=settings, results=[{"case": case, "steps_s": rounds[case]} for case in rounds]
        )


def measure(core: EngineCore, batch: int, tokens: int, num_rounds: int) -> dict[str, list[list[float]]]:
    """Times of steps by round, with a form and without, after a round of each to warm up."""
    cases = {"without": None, "with form": ENDLESS}
    rounds: dict[str, list[list[float]]] = {case: [] for case in cases}
    for i in range(num_rounds + 1):
        for k, (case, form) in enumerate(cases.items()):
            times_s = step_times_s(core, form, (2 * i + k) * batch, batch, tokens if i else 8)
            if i:
                rounds[case].append(times_s)
    return rounds


if __name__ == "__main__":
    main()
