"""A field of a request becomes the parameter of the same name: declared once in the body, once in the parameters."""

from dataclasses import fields

import pytest

from fastserve.server.requests.schema import ChatRequest, CompletionRequest, GenerationRequest
from fastserve.types import SamplingDefaults, SamplingParams, SchedulingParams

BODIES = {
    CompletionRequest: {"prompt": "a"},
    ChatRequest: {"messages": [{"role": "user", "content": "a"}]},
}
SPELLED_OTHERWISE = {"max_tokens", "logprobs"}  # by OpenAI, in each of the two routes


@pytest.mark.parametrize("model", BODIES, ids=lambda model: model.__name__)
@pytest.mark.parametrize("params", [SamplingParams, SchedulingParams], ids=lambda params: params.__name__)
def test_every_parameter_is_a_field_of_the_body_with_the_same_default(
    model: type[GenerationRequest], params: type
) -> None:
    body = model.model_validate(BODIES[model])
    made = body.scheduling_params() if params is SchedulingParams else body.sampling_params(SamplingDefaults())
    for field in fields(params):
        assert field.name in model.model_fields, f"declare {field.name} in server/requests/schema.py"
        if field.name not in SPELLED_OTHERWISE:
            assert getattr(made, field.name) == getattr(params(), field.name)


def test_lists_become_tuples_and_a_stop_string_a_list_of_one() -> None:
    body = CompletionRequest.model_validate({"prompt": "a", "stop": "x", "stop_token_ids": [1, 2]})
    made = body.sampling_params(SamplingDefaults())
    assert (made.stop, made.stop_token_ids) == (("x",), (1, 2))
    again = CompletionRequest.model_validate_json(body.model_dump_json(exclude_unset=True))
    assert again.sampling_params(SamplingDefaults()) == made


@pytest.mark.parametrize(
    ("asked", "limit", "capped"), [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_a_limit_of_the_model_caps_what_is_asked_for(asked: int | None, limit: int | None, capped: int | None) -> None:
    assert SamplingDefaults(max_tokens_limit=limit).cap(asked) == capped
