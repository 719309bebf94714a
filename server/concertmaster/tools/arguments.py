"""What a model calls a worker tool with, checked."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from concertmaster.errors import ToolCallError

Arguments = TypeVar("Arguments", bound=BaseModel)


def parse_arguments(model: type[Arguments], arguments: Mapping[str, JsonValue]) -> Arguments:
    """Return the arguments of a tool call as a `model`.

    Raises:
        ToolCallError: they are not of its shape; the message has a clause for each fault.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as exc:
        faults = [
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise ToolCallError(f"The arguments are wrong. {'; '.join(faults)}.") from None
