"""Structured logs: one event name and fields for each change of state, to standard error."""

import logging
import sys
from typing import cast

import structlog

Logger = structlog.stdlib.BoundLogger


def configure(*, json: bool, level: str = "info") -> None:
    """Set the process' logs up: lines for people on a terminal, one JSON object a line otherwise."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def logger(part: str) -> Logger:
    """Return the logger of a part; nothing is configured on import."""
    return cast(Logger, structlog.get_logger(part=part))
