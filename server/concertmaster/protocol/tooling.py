"""MCP tools whose schemas are free of noise and whose errors are sentences."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, ValidationError

from concertmaster.errors import ConcertmasterError, did_you_mean
from concertmaster.llm.protocol import JsonSchema
from concertmaster.protocol.arguments import MOST_PROBLEMS, argument_problems
from concertmaster.protocol.elicitation import AnswerNeededError
from concertmaster.protocol.schemas import input_schema


class SentenceTool(Tool):
    """An MCP tool that tells its caller what is wrong, and nothing that is not its business."""

    def model_post_init(self, context: Any, /) -> None:
        """Clean the schema that was derived from the function."""
        super().model_post_init(context)
        self.parameters = input_schema(self.parameters)

    @classmethod
    def answering(
        cls,
        reply: type[BaseModel],
        call: Callable[..., Awaitable[CallToolResult]],
        *,
        output_schema: JsonSchema,
        title: str,
        description: str,
        annotations: ToolAnnotations,
    ) -> Tool:
        """Return the tool that `call` is, whose results have the form of `reply`.

        Clients see `output_schema`: what the SDK makes of `reply` takes long to make and to read.
        """
        tool = cls.from_function(
            call, title=title, description=description, annotations=annotations
        )
        tool.fn_metadata.output_model = reply
        tool.fn_metadata.output_schema = output_schema
        return tool

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        """Run the tool; what the caller can correct is said without a prefix.

        An optional argument that is null counts as left out: some clients send all of them.
        """
        self._refuse_unknown(arguments)
        required = self.parameters.get("required", ())
        arguments = {
            name: value
            for name, value in arguments.items()
            if value is not None or name in required
        }
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as exc:
            match exc.__cause__:
                case AnswerNeededError() as cause:
                    return cause.result
                case ConcertmasterError() as cause:
                    raise ToolError(str(cause)) from cause
                case ValidationError() as cause if not isinstance(exc, UnexpectedToolError):
                    given = self.fn_metadata.pre_parse_json(arguments)
                    problems = argument_problems(cause, given, self.parameters)
                    raise ToolError(" ".join(problems)) from cause
                case _:
                    raise

    def _refuse_unknown(self, arguments: Mapping[str, Any]) -> None:
        known = cast("dict[str, Any]", self.parameters["properties"])
        sentences = [
            f"{self.name} has no parameter {name!r}. {did_you_mean(name, known)}"
            for name in arguments
            if name not in known
        ]
        if sentences:
            raise ToolError(" ".join(sentences[:MOST_PROBLEMS]))
