"""Logging: one logger per room, text or JSON lines on standard error."""

import json
import logging
import sys


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time_s": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            row["request_id"] = request_id
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, for example `get_logger(__name__)`."""
    return logging.getLogger(name)


def configure_logging(level: str = "info", *, json_lines: bool = False) -> None:
    """Send the log of FastServe to standard error; call once per process."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_JsonFormatter() if json_lines else text)
    logger = logging.getLogger("fastserve")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def log_settings() -> tuple[str, bool]:
    """Return (level, json_lines) as configured, for a child process to log alike."""
    logger = logging.getLogger("fastserve")
    json_lines = any(isinstance(handler.formatter, _JsonFormatter) for handler in logger.handlers)
    return logging.getLevelName(logger.getEffectiveLevel()).lower(), json_lines
