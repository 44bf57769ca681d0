"""Conversations with tools and reasoning through short templates that do what those of the families do."""

import json

import pytest

from fastserve.server.requests.messages import ChatMessage
from fastserve.server.requests.tools import Tool
from fastserve.tokenizer import ChatTemplates
from fastserve.tokenizer.chat_template import TemplateOptions

QWEN3 = """
{%- if tools %}<|im_start|>system
# Tools
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role in ("user", "system") %}<|im_start|>{{ message.role + "\n" + message.content }}<|im_end|>
{% elif message.role == "assistant" %}
{%- set content = message.content %}
{%- set reasoning = "" %}
{%- if message.reasoning_content is string %}{% set reasoning = message.reasoning_content %}
{%- elif "</think>" in content %}
{%- set reasoning = content.split("</think>")[0].split("<think>")[-1].strip("\n") %}
{%- set content = content.split("</think>")[-1].lstrip("\n") %}
{%- endif %}<|im_start|>assistant
{{ "<think>\n" + reasoning + "\n</think>\n\n" if reasoning }}{{ content }}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function %}{% set tool_call = tool_call.function %}{% endif %}
<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif message.role == "tool" %}
{{- "<|im_start|>user" if loop.first or messages[loop.index0 - 1].role != "tool" }}
<tool_response>
{{ message.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != "tool" %}<|im_end|>
{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}
{%- endif %}"""
LLAMA31 = """
{{- bos_token }}
{%- set tools_in_user_message = true if tools_in_user_message is not defined else tools_in_user_message %}
{%- set ns = namespace(shown=false) %}
{%- for message in messages %}
{%- if not (message.role == "ipython" or message.role == "tool" or "tool_calls" in message) %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{% if tools and tools_in_user_message and message.role == "user" and not ns.shown %}{% set ns.shown = true %}
{%- for t in tools %}{{ t | tojson(indent=4) }}{{ "\n\n" }}{% endfor %}
{%- endif %}
{{- message.content | trim }}<|eot_id|>
{%- elif "tool_calls" in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception("This model only supports single tool-calls at once!") }}{% endif %}
{%- set tool_call = message.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ tool_call.name }}", "parameters": {{ tool_call.arguments | tojson }}}<|eot_id|>
{%- else %}<|start_header_id|>ipython<|end_header_id|>

{{ message.content | tojson if message.content is mapping or message.content is not string else message.content }}<|eot_id|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "user" %}
{%- if tools and loop.last %}[AVAILABLE_TOOLS] [
{%- for tool in tools %}{"type": "function", "function": {
{%- for key, value in tool.function.items() if key != "return" %}"{{ key }}": {{ '"' + value + '"' if value is string else value | tojson }}{{ ", " if not loop.last }}{% endfor %}}}{{ ", " if not loop.last }}{% endfor %}][/AVAILABLE_TOOLS]
{%- endif %}[INST] {{ message.content }}[/INST]
{%- elif message.tool_calls is defined and message.tool_calls is not none %}[TOOL_CALLS] [
{%- for tool_call in message.tool_calls %}
{%- if tool_call.id is not defined or tool_call.id | length != 9 %}{{ raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{% endif %}
{{- (tool_call.function | tojson)[:-1] }}, "id": "{{ tool_call.id }}"}{{ ", " if not loop.last }}
{%- endfor %}]{{ eos_token }}
{%- elif message.role == "assistant" %} {{ message.content | trim }}{{ eos_token }}
{%- elif message.role == "tool" %}[TOOL_RESULTS] {"content": {{ message.content }}, "call_id": "{{ message.tool_call_id }}"}[/TOOL_RESULTS]
{%- endif %}
{%- endfor %}"""
DEEPSEEK_R1 = """
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "user" %}<|User|>{{ message.content }}
{%- elif message.role == "assistant" and message.tool_calls %}<|Assistant|>
{%- for tool in message.tool_calls %}{{ "<|call|>" + tool["type"] + "<|sep|>" + tool["function"]["name"] + "\n" + tool["function"]["arguments"] }}{% endfor %}
{%- elif message.role == "assistant" %}<|Assistant|>{{ message.content.split("</think>")[-1] }}{{ eos_token }}
{%- elif message.role == "tool" %}<|output|>{{ message.content }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|Assistant|><think>
{% endif %}"""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

ARGUMENTS = '{"city": "Paris", "days": 2}'
LOOK = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}
CONVERSATION = [
    {"role": "user", "content": "How is Paris?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "sunny"},
]


def render(source: str, messages: list[dict], **options) -> str:
    """What the template makes of messages as clients send them."""
    rows = [ChatMessage.model_validate(message).as_template_row() for message in messages]
    if "tools" in options:
        options["tools"] = [Tool.model_validate(tool).as_template_value() for tool in options["tools"]]
    return ChatTemplates({"default": source.lstrip("\n")}, SPECIAL).render(rows, TemplateOptions(**options))


def test_qwen3_reads_tools_calls_and_results():
    text = render(QWEN3, CONVERSATION, tools=[LOOK])
    assert json.dumps(LOOK) in text
    assert '<tool_call>\n{"name": "look", "arguments": ' + ARGUMENTS + "}\n</tool_call><|im_end|>" in text
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")


def test_qwen3_thinks_unless_it_is_turned_off():
    user = CONVERSATION[:1]
    assert render(QWEN3, user, variables={"enable_thinking": True}).endswith("<|im_start|>assistant\n")
    assert render(QWEN3, user, variables={"enable_thinking": False}).endswith("<think>\n\n</think>\n\n")
    answer = {"role": "assistant", "content": "Yes.", "reasoning": "hm"}
    assert "<think>\nhm\n</think>\n\nYes.<|im_end|>" in render(QWEN3, [*user, answer])
    begun = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes and"}
    text = render(QWEN3, [*user, begun], continue_final_message=True, add_generation_prompt=False)
    assert text.endswith("<think>\nhm\n</think>\n\nYes and")


def test_llama_reads_tools_calls_and_results():
    text = render(LLAMA31, CONVERSATION, tools=[LOOK])
    assert json.dumps(LOOK, indent=4) in text
    assert '{"name": "look", "parameters": ' + ARGUMENTS + "}<|eot_id|>" in text
    assert "<|start_header_id|>ipython<|end_header_id|>\n\nsunny<|eot_id|>" in text
    with pytest.raises(ValueError, match="only supports single tool-calls"):
        render(LLAMA31, [CONVERSATION[0], {"role": "assistant", "tool_calls": [CALL, CALL]}])


def test_mistral_reads_tools_calls_and_results():
    text = render(MISTRAL, CONVERSATION)
    assert '[TOOL_CALLS] [{"name": "look", "arguments": ' + ARGUMENTS + ', "id": "a1b2c3d4e"}]</s>' in text
    assert '[TOOL_RESULTS] {"content": sunny, "call_id": "a1b2c3d4e"}[/TOOL_RESULTS]' in text
    assert f"[AVAILABLE_TOOLS] [{json.dumps(LOOK)}][/AVAILABLE_TOOLS][INST] How" in render(
        MISTRAL, CONVERSATION[:1], tools=[LOOK]
    )
    with pytest.raises(ValueError, match="length 9"):
        render(MISTRAL, [CONVERSATION[0], {"role": "assistant", "tool_calls": [CALL | {"id": "call_1"}]}])


def test_deepseeks_template_gets_arguments_as_the_text_that_it_joins():
    text = render(DEEPSEEK_R1, CONVERSATION)
    assert "<|call|>function<|sep|>look\n" + ARGUMENTS in text
    assert text.endswith("<|Assistant|><think>\n")
