"""A scripted endpoint that speaks Anthropic's Messages API, for tests, demos and load tests."""

from concertmaster.fake_api.behaviour import (
    FAULTS,
    Behaviour,
    Fault,
    parse_faults,
    parse_values,
)
from concertmaster.fake_api.serving import ServedApi, serve_fake_api

__all__ = [
    "FAULTS",
    "Behaviour",
    "Fault",
    "ServedApi",
    "parse_faults",
    "parse_values",
    "serve_fake_api",
]
