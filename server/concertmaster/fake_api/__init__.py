"""A scripted endpoint that speaks Anthropic's Messages API, for tests, demos and load tests."""

from concertmaster.fake_api.app import ServedApi, serve_fake_api
from concertmaster.fake_api.behaviour import FAULTS, Behaviour, Fault, parse_faults, parse_values

__all__ = [
    "FAULTS",
    "Behaviour",
    "Fault",
    "ServedApi",
    "parse_faults",
    "parse_values",
    "serve_fake_api",
]
