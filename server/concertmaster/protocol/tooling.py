"""MCP tools whose schemas are free of noise and whose errors are sentences."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, ValidationError

from concertmaster.engine.plans.plan import unknown_key
from concertmaster.errors import ConcertmasterError, did_you_mean
from concertmaster.llm.protocol import JsonSchema
from concertmaster.protocol.elicitation import AnswerNeededError
from concertmaster.protocol.schemas import tidy


class SentenceTool(Tool):
    """An MCP tool that tells its caller what is wrong, and nothing that is not its business."""

    def model_post_init(self, context: Any, /) -> None:
        """Clean the schema that was derived from the function."""
        super().model_post_init(context)
        self.parameters = {**tidy(self.parameters), "additionalProperties": False}

    @classmethod
    def answering(
        cls,
        schemas: Mapping[type[BaseModel], JsonSchema],
        reply: type[BaseModel],
        call: Callable[..., Awaitable[CallToolResult]],
        *,
        title: str,
        description: str,
        annotations: ToolAnnotations,
    ) -> Tool:
        """Return the tool that `call` is, whose results have the form of `reply`.

        Its schema is among `schemas`: the SDK would make it anew for each tool, and a client
        that starts a server waits for it.
        """
        tool = cls.from_function(
            call, title=title, description=description, annotations=annotations
        )
        tool.fn_metadata.output_model = reply
        tool.fn_metadata.output_schema = schemas[reply]
        return tool

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        """Run the tool; whatever a caller can do something about is said without a prefix."""
        self._refuse_unknown(arguments)
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as exc:
            match exc.__cause__:
                case AnswerNeededError() as cause:
                    return cause.result
                case ConcertmasterError() as cause:
                    raise ToolError(str(cause)) from cause
                case ValidationError() as cause if not isinstance(exc, UnexpectedToolError):
                    raise ToolError(self._argument_problems(cause)) from cause
                case _:
                    raise

    def _refuse_unknown(self, arguments: Mapping[str, Any]) -> None:
        known = cast("dict[str, Any]", self.parameters["properties"])
        for name in arguments:
            if name not in known:
                raise ToolError(
                    f"{self.name} has no parameter {name!r}. {did_you_mean(name, known)}"
                )

    def _argument_problems(self, error: ValidationError) -> str:
        sentences: list[str] = []
        for item in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(part) for part in item["loc"])
            what = item["msg"].removeprefix("Value error, ").rstrip(".")
            if item["type"] == "missing":
                what = "this argument is required"
            elif item["type"] == "extra_forbidden":
                what = unknown_key(item["loc"])
            sentences.append(f"{where}: {what}" + ("" if what.endswith("?") else "."))
        return f"{self.name} was called wrongly. {' '.join(sentences[:10])}"
