"""Structured logs: one event name and fields for each change of state, to standard error."""

import logging
import sys
from typing import cast

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(*, json: bool, level: str = "info") -> None:
    """Set the process' logs up: lines for people on a terminal, one JSON object a line otherwise."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_empty_trace if json else _trace_below,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def logger(part: str) -> Logger:
    """Return the logger of a part; nothing is configured on import."""
    return cast(Logger, structlog.get_logger(part=part))


def _without_empty_trace(
    _logger: object, _method: str, fields: structlog.types.EventDict
) -> structlog.types.EventDict:
    if not fields.get("trace", True):
        del fields["trace"]
    return fields


def _trace_below(_logger: object, _method: str, fields: structlog.types.EventDict) -> structlog.types.EventDict:
    """People read a traceback below the line, and not in it."""
    if trace := fields.pop("trace", ""):
        fields["exception"] = trace
    return fields
