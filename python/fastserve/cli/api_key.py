"""API keys from the environment: every user of the machine can read a command line."""

import os

from fastserve.errors import InvalidArgumentError

SERVER_VARIABLES = ("FASTSERVE_API_KEY", "VLLM_API_KEY")
CLIENT_VARIABLES = ("FASTSERVE_API_KEY", "OPENAI_API_KEY")


def take_server_keys() -> tuple[str, ...]:
    """Keys that a server shall accept; removed from the environment, which child processes inherit.

    Raises:
        InvalidArgumentError: a variable is set and blank: a key that went missing must not open the server.
    """
    found = {name: os.environ.pop(name) for name in SERVER_VARIABLES if name in os.environ}
    for name, key in found.items():
        if not key.strip():
            raise InvalidArgumentError(f"{name} must not be blank; unset it to serve without a key")
    return tuple(found.values())


def client_key(given: str | None) -> str | None:
    """The key to send: as given, or the first in the environment."""
    return given or next((os.environ[name] for name in CLIENT_VARIABLES if os.environ.get(name)), None)
