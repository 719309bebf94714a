"""Tool `read_result`: reading on in a result that was too long to return whole."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.llm.protocol import ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.long_results import READ_RESULT
from concertmaster.tools.scope import ToolScope


class ReadResultArguments(BaseModel):
    """What `read_result` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    result: str = Field(min_length=1, description="Which result, as told where it was cut.")
    offset: int = Field(ge=0, description="The first character to return, from 0.")


class ReadResult:
    """Returns the next part of a result that was cut."""

    spec = ToolSpec(
        name=READ_RESULT,
        description="Returns the next part of a tool's result that was too long to return whole.",
        input_schema=ReadResultArguments.model_json_schema(),
    )

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the part, and how to read on if there is more."""
        asked = parse_arguments(ReadResultArguments, arguments)
        return scope.long_results.part(asked.result, asked.offset)
