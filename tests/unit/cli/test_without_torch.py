"""`fastserve env` and `simulate` need no torch, no transformers and no server."""

import json
import subprocess
import sys

import pytest

# What `pip install fastserve` alone does not bring.
ABSENT = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "jinja2", "fastapi", "starlette",
          "uvicorn", "zmq", "msgspec", "prometheus_client", "tqdm", "rich", "httpx", "aiohttp", "matplotlib")  # fmt: skip
BLOCKER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
from fastserve.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command where nothing but numpy is installed."""
    command = [sys.executable, "-c", BLOCKER, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_env_says_that_there_is_no_torch():
    done = run("env")
    assert done.returncode == 0, done.stderr
    assert any(line.split() == ["torch", "not", "installed"] for line in done.stdout.splitlines())


@pytest.mark.parametrize("flags", [(), ("--compare", "learned,fcfs"), ("--explain-policy",), ("--suggest",)])
def test_simulate_runs_on_named_models(flags):
    done = run("simulate", "opt-13b", "--num-prompts", "5", "--request-rate", "1", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_simulate_reads_the_shape_of_a_checkpoint(tmp_path):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
        "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 512, "max_position_embeddings": 2048,
        "torch_dtype": "float16", "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("simulate", str(tmp_path), "--num-prompts", "5", "--request-rate", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_command_that_needs_torch_says_how_to_get_it():
    done = run("generate", "/nowhere", "--prompt", "x")
    assert done.returncode == 1 and "pip install 'fastserve[serve]'" in done.stderr
