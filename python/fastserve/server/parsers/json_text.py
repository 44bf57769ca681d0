"""Values of a call as the model wrote them, in JSON."""

import msgspec


def decoded_text(text: str) -> str | None:
    """The text that a JSON string stands for; None = it is none, or no valid Unicode."""
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.DecodeError, UnicodeError):
        return None


def object_text(arguments: str) -> str | None:
    """Arguments that are an object, or a string that holds one, or null; None = they are none of these."""
    if arguments.startswith("{"):
        return arguments
    text = "" if arguments == "null" else decoded_text(arguments)
    if text is None or text.lstrip()[:1] not in ("{", ""):
        return None
    return text.strip() or "{}"
