"""The offline API with a fake core."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastserve.engine.llm import LLM
from fastserve.engine.options import engine_config
from fastserve.errors import EngineDeadError, InvalidArgumentError
from fastserve.types import FinishReason, SamplingParams
from tests.unit.engine import fake_core
from tests.unit.tokenizer import tiny

FACTORY = "tests.unit.engine.fake_core:make"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def llm(folder: Path) -> LLM:
    return make(folder)


def make(folder: Path, **options) -> LLM:
    return LLM(str(folder), core_factory=FACTORY, **options)


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [[i, i + 1] for i in range(3, 103)]
    params = [SamplingParams(max_tokens=1 + i % 7, logprobs=0) for i in range(100)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    for prompt, sampling, output in zip(prompts, params, outputs, strict=True):
        (completion,) = output.outputs
        assert output.prompt_token_ids == tuple(prompt)
        assert completion.token_ids == fake_core.tokens_of(prompt, sampling.max_tokens)
        assert completion.text == llm.tokenizer.decode(completion.token_ids)
        assert len(completion.logprobs) == sampling.max_tokens
        assert completion.finish_reason is FinishReason.LENGTH
        assert completion.stats.preemptions == 3
        assert output.num_cached_tokens == 1


def test_a_text_is_encoded_with_special_tokens(llm: LLM) -> None:
    (output,) = llm.generate("fox", use_tqdm=False)
    assert output.prompt == "fox"
    assert output.prompt_token_ids == tuple(llm.tokenizer.encode("fox"))
    assert output.prompt_token_ids[0] == llm.tokenizer.bos_token_id


def test_n_completions_come_together(llm: LLM) -> None:
    (output,) = llm.generate([[5, 6]], SamplingParams(n=3, max_tokens=4), use_tqdm=False)
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert {completion.token_ids for completion in output.outputs} == {fake_core.tokens_of([5, 6], 4)}


def test_a_stop_string_cuts_the_text(llm: LLM) -> None:
    prompt = [token - 1 for token in llm.tokenizer.encode("ab#c", add_special_tokens=False)]
    (output,) = llm.generate([prompt], SamplingParams(max_tokens=100, stop=("#",)), use_tqdm=False)
    assert (output.outputs[0].text, output.outputs[0].stop_reason) == ("ab", "#")
    answer = llm.tokenizer.encode("ab#", add_special_tokens=False)
    assert list(llm._core.stopped.values()) == [len(answer)], "the scheduler learns the length of the answer"


def test_failed_requests_hurt_no_other(llm: LLM) -> None:
    bad = [[], [10**6], [fake_core.REFUSE], [fake_core.BUG], [fake_core.FAIL], [fake_core.OVERLOAD], "\ud800", 3.5]
    prompts = [item for prompt in bad for item in (prompt, [7])]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=3, n=2), use_tqdm=False)
    for prompt, failed, good in zip(bad, outputs[::2], outputs[1::2], strict=True):
        assert [c.finish_reason for c in failed.outputs] == [FinishReason.ERROR] * 2, prompt
        assert all(c.error for c in failed.outputs), prompt
        assert [c.finish_reason for c in good.outputs] == [FinishReason.LENGTH] * 2
    assert len(llm._requests) == 0


def test_more_prompts_than_the_queue_holds_all_run(folder: Path) -> None:
    llm = make(folder, max_num_queued_reqs=5)
    outputs = llm.generate([[i] for i in range(3, 53)], SamplingParams(max_tokens=4, n=2), use_tqdm=False)
    assert {c.finish_reason for output in outputs for c in output.outputs} == {FinishReason.LENGTH}


def test_no_prompts_give_no_outputs(llm: LLM) -> None:
    assert llm.generate([], use_tqdm=False) == []
    assert llm.chat([], use_tqdm=False) == []


@pytest.mark.parametrize("sampling", [[SamplingParams()], [SamplingParams()] * 3, ["x", "y"]])
def test_sampling_must_fit_the_prompts(llm: LLM, sampling: list) -> None:
    with pytest.raises(InvalidArgumentError, match="one for each of the 2 prompts"):
        llm.generate(["a", "b"], sampling)


def test_a_bare_list_of_ids_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError, match="list of prompts"):
        llm.generate([1, 2, 3])


def test_chat_renders_the_template_without_more_special_tokens(llm: LLM) -> None:
    conversation = [{"role": "user", "content": "Hi"}]
    (output,) = llm.chat(conversation, use_tqdm=False)
    assert output.prompt == "<s>[user] Hi\n[assistant]"
    assert output.prompt_token_ids.count(llm.tokenizer.bos_token_id) == 1
    both = llm.chat([conversation, [{"role": "robot", "content": "Hi"}]], use_tqdm=False)
    assert both[0].outputs == output.outputs
    assert "no role robot" in both[1].outputs[0].error


def test_chat_takes_what_a_template_can_use(llm: LLM) -> None:
    conversation = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]
    shows = "{{ tools | tojson }}{{ mood }}{% for m in messages %}{{ m.content }};{% endfor %}"

    def prompt(**options: object) -> str | None:
        return llm.chat(conversation, SamplingParams(max_tokens=1), use_tqdm=False, **options)[0].prompt

    begun = prompt(continue_final_message=True, add_generation_prompt=False)
    assert begun == "<s>[user] Hi\n[assistant] Well, "
    assert prompt(chat_template=shows, tools=[{"a": 1}], chat_template_kwargs={"mood": "!"}) == '[{"a": 1}]!Hi;Well, ;'
    with pytest.raises(InvalidArgumentError, match="exclude each other"):
        prompt(continue_final_message=True)
    with pytest.raises(InvalidArgumentError, match="must not set 'messages'"):
        prompt(chat_template_kwargs={"messages": []})


def test_chat_needs_a_template(tmp_path: Path) -> None:
    llm = make(tiny.save(tmp_path, chat_template=None))
    with pytest.raises(InvalidArgumentError, match="no chat template"):
        llm.chat([{"role": "user", "content": "Hi"}])


def test_the_progress_bar_shows_prompts_and_tokens_per_second(llm: LLM, capsys: pytest.CaptureFixture) -> None:
    llm.generate([[3], []], SamplingParams(max_tokens=5))
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "tokens/s" in shown
    llm.generate([[3]], use_tqdm=False)
    assert capsys.readouterr().err == ""


def test_a_closed_llm_refuses(folder: Path) -> None:
    with make(folder) as llm:
        llm.generate([[3]], use_tqdm=False)
    llm.close()
    assert llm._core.closed
    with pytest.raises(EngineDeadError, match="closed"):
        llm.generate([[3]])


def test_a_failed_engine_says_so_afterwards(llm: LLM) -> None:
    with pytest.raises(RuntimeError, match="the fake crashed"):
        llm.generate([[fake_core.CRASH]], use_tqdm=False)
    with pytest.raises(EngineDeadError, match="the fake crashed"):
        llm.generate([[3]])
    assert llm._core.closed


def test_ctrl_c_empties_the_engine_and_leaves_it_usable(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    step, turns = llm._core.step, []

    def interrupted_step() -> list:
        turns.append(1)
        if len(turns) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    monkeypatch.setattr(llm._core, "step", interrupted_step)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[3], [fake_core.SILENT]], SamplingParams(max_tokens=1000), use_tqdm=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not llm._core.has_work()
    assert len(llm._requests) == 0
    assert llm.generate([[3]], use_tqdm=False)[0].outputs[0].finish_reason is FinishReason.LENGTH


def test_it_works_outside_the_main_thread(llm: LLM) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.extend(llm.generate([[3]], use_tqdm=False)))
    thread.start()
    thread.join()
    assert len(found) == 1


def test_options_reach_their_parts() -> None:
    config = engine_config("m", {"dtype": "bfloat16", "block_size": 8, "max_num_seqs": 4, "swap_space": 2.5})
    assert (config.model.model, config.model.dtype) == ("m", "bfloat16")
    assert (config.cache.block_size, config.cache.host_kv_gib) == (8, 2.5)
    assert config.scheduler.max_num_seqs == 4


def test_an_unknown_option_names_close_matches() -> None:
    with pytest.raises(InvalidArgumentError, match="did you mean max_num_seqs"):
        engine_config("m", {"max_num_seq": 4})
    with pytest.raises(InvalidArgumentError, match="known are"):
        engine_config("m", {"qqq": 4})


def test_an_option_under_both_names_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="given once"):
        engine_config("m", {"swap_space": 1.0, "host_kv_gib": 1.0})


def test_an_option_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="block_size"):
        engine_config("m", {"block_size": 7})


def test_importing_the_package_loads_neither_torch_nor_the_core() -> None:
    program = """
import sys, fastserve
assert {"LLM", "SamplingParams"} <= set(dir(fastserve))
assert not {"torch", "fastserve._C", "fastserve.engine"} & set(sys.modules), sys.modules.keys()
from fastserve import SamplingParams
assert SamplingParams(max_tokens=3).max_tokens == 3
assert "torch" not in sys.modules
from fastserve import LLM
assert LLM.__name__ == "LLM"
try:
    fastserve.nothing
except AttributeError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "no attribute 'nothing'" in done.stdout
