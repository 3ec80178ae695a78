"""Structured logging, set up once per process; no line holds a token, whoever wrote it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, WrappedLogger

from ls_backend.settings import Settings

MASK = "***"
_SECRET_NAME = re.compile(
    r"token|secret|passw|api[-_]?key|authorization|cookie|credential|signature|^(pass|pwd|auth|refresh|access|key)$",
    re.IGNORECASE,
)
_PATTERNS = (
    # What stands in headers, as words of a message as well.
    (re.compile(r"\b(Token|Bearer|Basic)(\s+)[\w.+/=~-]{8,}", re.IGNORECASE), rf"\1\2{MASK}"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), MASK),
    # user:password@host of a URL; the password may hold anything but these.
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), rf"\1{MASK}@"),
    # ?token=... and X-Amz-Signature=... of a URL, "secret": "..." of JSON or of a Python dict, secret=... of a repr.
    (
        re.compile(
            r"""([\w-]*(?:token|secret|passw(?:or)?d|api[-_]?key|authorization|cookie|credential|signature)["']?"""
            r"""\s*[=:]\s*["']?)(?!\s|(?:Token|Bearer|Basic)\s)[^\s&"',;})\]]+""",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)


def configure(settings: Settings, *, process: str) -> None:
    """Send every log line of this process through one formatter to stderr.

    Args:
        settings: Level and format.
        process: "server", "worker-rank-1" and so on; stands in every line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                Masked.of(settings),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy in ("httpx", "httpcore", "rq.worker", "rq.scheduler"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)


class Masked:
    """Processor that takes secrets out of a line: by value where they are known, by name and by shape otherwise.

    The last one before the line is written, so that tracebacks and lines of other packages go through it too.
    """

    def __init__(self, secrets: frozenset[str] = frozenset()) -> None:
        self._known = sorted(secrets, key=len, reverse=True)

    @classmethod
    def of(cls, settings: Settings) -> Masked:
        """Return a processor that knows the secrets of a deployment."""
        values = [getattr(settings, name) for name in type(settings).model_fields]
        return cls(frozenset(value.get_secret_value() for value in values if isinstance(value, SecretStr)) - {""})

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Return the line without secrets."""
        return {name: self._clean(value, name) for name, value in line.items()}

    def _clean(self, value: object, name: str = "") -> object:
        if value and _SECRET_NAME.search(name) and isinstance(value, str | bytes | Mapping | list | tuple):
            return MASK
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode(errors="replace"))
        if isinstance(value, Mapping):
            return {key: self._clean(item, str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item) for item in value]
        return value if value is None or isinstance(value, bool | int | float) else self.text(str(value))

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        for secret in self._known:
            text = text.replace(secret, MASK)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
