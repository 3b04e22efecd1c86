"""What aiohttp has to tell goes to a log of ours."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError


def http_logger(name: str, log: Any) -> logging.Logger:
    """A logger for an aiohttp server that tells `log`, a structlog logger: a client's mistake is one line, and only for
    debugging; anything else is an error."""
    logger = logging.Logger(name, logging.WARNING)  # not one that the process's settings reach
    logger.addHandler(_Told(log))
    return logger


class _Told(logging.Handler):
    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._log.debug("http_request_refused", error=" ".join(str(error).split())[:200])
        else:
            self._log.error("http_request_failed", detail=record.getMessage(), exc_info=record.exc_info)
