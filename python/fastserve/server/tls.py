"""TLS: the settings of a server, checked before it listens."""

import ssl
from typing import TypedDict

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError


class TlsSettings(TypedDict, total=False):
    """As uvicorn names them."""

    ssl_certfile: str
    ssl_keyfile: str | None
    ssl_ca_certs: str | None
    ssl_cert_reqs: int
    ssl_ciphers: str | None


def tls_settings(config: ServerConfig) -> TlsSettings:
    """Return the settings for uvicorn; none where there is no certificate.

    Raises:
        InvalidArgumentError: they do not go together, or a file cannot be used.
    """
    if config.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers"):
            if getattr(config, name):
                raise InvalidArgumentError(f"{name} needs ssl_certfile, the certificate of the server")
        return {}
    if config.ssl_cert_reqs and config.ssl_ca_certs is None:
        raise InvalidArgumentError(
            "ssl_cert_reqs needs ssl_ca_certs, the authorities that sign certificates of clients"
        )
    if config.ssl_ca_certs is not None and not config.ssl_cert_reqs:
        raise InvalidArgumentError("ssl_ca_certs needs ssl_cert_reqs 1 or 2: otherwise clients are not asked")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names: tuple[str, ...] = ("ssl_certfile", "ssl_keyfile")
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password="")
        names = ("ssl_ca_certs",)
        if config.ssl_ca_certs is not None:
            context.load_verify_locations(config.ssl_ca_certs)
        names = ("ssl_ciphers",)
        if config.ssl_ciphers is not None:
            context.set_ciphers(config.ssl_ciphers)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        given = " and ".join(f"{name} {getattr(config, name)}" for name in names if getattr(config, name))
        raise InvalidArgumentError(f"{given} cannot be used: {error}") from None
    return {
        "ssl_certfile": config.ssl_certfile,
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_ca_certs": config.ssl_ca_certs,
        "ssl_cert_reqs": config.ssl_cert_reqs,
        "ssl_ciphers": config.ssl_ciphers,
    }
