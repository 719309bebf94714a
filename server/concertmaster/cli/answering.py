"""What answers requests under an operator's settings."""

from typing import Literal

from concertmaster.settings import LoadedSettings

MODEL_FIELDS = ("model_planner", "model_worker", "model_synthesizer")

Answering = Literal["anthropic", "offline", "missing"]
"""What answers requests: a provider's model, the offline one, or nothing for want of a key."""


def answering(loaded: LoadedSettings) -> Answering:
    """Return what answers requests under these settings.

    Without a key the offline model stands in, unless somebody asked for another: they
    would take its answers for those of the model they named.
    """
    settings = loaded.settings
    if settings.offline:
        return "offline"
    if settings.connected:
        return "anthropic"
    named = any(loaded.origin[name] != "default" for name in MODEL_FIELDS)
    return "missing" if named or settings.offline is False else "offline"
