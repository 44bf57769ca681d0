"""The tools of a request and its choice among them, checked."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fastserve.server.errors import bad_request
from fastserve.server.requests.body_shape import MAX_TOOLS, check_json_size

FunctionName = Annotated[str, StringConstraints(min_length=1, max_length=256)]

# Clients leave notes of their own in these, as in messages.
_NOTED = ConfigDict(extra="ignore", strict=True)


class ToolFunction(BaseModel):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    model_config = _NOTED

    name: FunctionName
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = _NOTED

    type: Literal["function"] = "function"
    function: ToolFunction

    def as_template_value(self) -> dict[str, object]:
        """What chat templates expect, in the order in which models know it."""
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": self.type, "function": function}


class NamedFunction(BaseModel):
    """The function that the model must call."""

    model_config = _NOTED

    name: FunctionName


class NamedChoice(BaseModel):
    """A choice of one function."""

    model_config = _NOTED

    type: Literal["function"] = "function"
    function: NamedFunction


def _check_size(tools: list[Tool]) -> list[Tool]:
    check_json_size("tools", [tool.model_dump() for tool in tools])
    return tools


Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS), AfterValidator(_check_size)]
ToolChoice = Literal["none", "auto", "required"] | NamedChoice


def check_choice(tools: list[Tool] | None, choice: ToolChoice | None) -> ToolChoice:
    """Return the choice that a request makes: without one, `auto` if there are tools.

    Raises:
        ApiError: 400, a call is asked for, and there is no such tool.
    """
    if choice is None or choice == "auto":
        return "auto" if tools else "none"
    if choice != "none" and not tools:
        raise bad_request("tool_choice needs tools; send them, or leave it out", "tool_choice", "invalid_value")
    if isinstance(choice, NamedChoice) and function_named(tools or [], choice.function.name) is None:
        message = f"tool_choice must name one of the tools, got {choice.function.name!r:.100}"
        raise bad_request(message, "tool_choice", "invalid_value")
    return choice


def function_named(tools: list[Tool], name: str) -> ToolFunction | None:
    """The function of this name."""
    return next((tool.function for tool in tools if tool.function.name == name), None)
