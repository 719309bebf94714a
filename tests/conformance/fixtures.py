"""What the conformance suite wants to find on a server: tools, resources and prompts by name."""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

Ctx = Context[Any, Any]
Asking = str | InputRequiredResult

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJg"
    "gg=="
)
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def embedded(uri: str, mime_type: str = "text/plain", text: str = "Embedded.") -> EmbeddedResource:
    resource = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=resource)


async def test_simple_text() -> str:
    return "This is a simple text response for testing."


async def test_image_content() -> list[ImageContent]:
    return [image()]


async def test_audio_content() -> list[AudioContent]:
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


async def test_embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource")]


async def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    mixed = embedded("test://mixed-content-resource", "application/json", '{"value": 123}')
    return [TextContent(type="text", text="Multiple content types test:"), image(), mixed]


async def test_error_handling() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


async def test_tool_with_logging(ctx: Ctx) -> str:
    for message in ("started", "processing data", "completed"):
        params = LoggingMessageNotificationParams(level="info", data=f"Tool execution {message}")
        note = LoggingMessageNotification(params=params)
        await ctx.session.send_notification(note, related_request_id=ctx.request_id)
    return "Tool with logging executed successfully"


async def test_tool_with_progress(ctx: Ctx) -> str:
    for step in (0, 50, 100):
        await ctx.report_progress(step, 100, f"Completed step {step} of 100")
    return "done"


def sampling(question: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
    params = CreateMessageRequestParams(messages=[message], max_tokens=100)
    return CreateMessageRequest(params=params)


def text_in(result: CreateMessageResult) -> str:
    return result.content.text if isinstance(result.content, TextContent) else ""


async def test_sampling(prompt: str, ctx: Ctx) -> str:
    result = await ctx.session.send_request(sampling(prompt), CreateMessageResult)
    return f"LLM response: {text_in(result)}"


class UserResponse(BaseModel):
    response: str


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(
        default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]}
    )
    verified: bool = True


def schema(**extra: Any) -> Any:
    return Field(json_schema_extra=extra)


def titled(*names: str) -> list[Any]:
    return [{"const": name, "title": name.title()} for name in names]


class Enums(BaseModel):
    untitledSingle: str = schema(enum=["active", "inactive"])  # noqa: N815
    titledSingle: str = schema(oneOf=titled("low", "high"))  # noqa: N815
    untitledMulti: list[str] = schema(items={"type": "string", "enum": ["a", "b"]})  # noqa: N815
    titledMulti: list[str] = schema(items={"anyOf": titled("news", "bug")})  # noqa: N815
    legacyEnum: str = schema(enum=["small", "large"], enumNames=["Small", "Large"])  # noqa: N815


async def elicited(ctx: Ctx, message: str, model: type[BaseModel]) -> str:
    result = await ctx.elicit(message=message, schema=model)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"Elicitation completed: action={result.action}, content={content}"


async def test_elicitation(message: str, ctx: Ctx) -> str:
    return await elicited(ctx, message, UserResponse)


async def test_elicitation_sep1034_defaults(ctx: Ctx) -> str:
    return await elicited(ctx, "Please provide user information", Defaults)


async def test_elicitation_sep1330_enums(ctx: Ctx) -> str:
    return await elicited(ctx, "Please select values", Enums)


async def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    return f"region={region}"


async def test_missing_capability(ctx: Ctx) -> str:
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool requires the client's sampling.",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return "The client can sample."


def form(message: str, name: str, kind: str = "string") -> ElicitRequest:
    wanted = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=wanted))


def answered(ctx: Ctx, *names: str) -> bool:
    return set(names) <= (ctx.input_responses or {}).keys()


def content_of(ctx: Ctx, name: str, field: str) -> Any:
    answer = (ctx.input_responses or {})[name]
    assert isinstance(answer, ElicitResult)
    return (answer.content or {}).get(field)


async def test_input_required_result_elicitation(ctx: Ctx) -> Asking:
    if answered(ctx, "user_name"):
        return f"Hello, {content_of(ctx, 'user_name', 'name')}!"
    return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})


async def test_input_required_result_sampling(ctx: Ctx) -> Asking:
    if answered(ctx, "capital"):
        reply = (ctx.input_responses or {})["capital"]
        return f"Model said: {text_in(cast('CreateMessageResult', reply))}"
    return InputRequiredResult(input_requests={"capital": sampling("The capital of France?")})


async def test_input_required_result_list_roots(ctx: Ctx) -> Asking:
    if answered(ctx, "client_roots"):
        return "Client exposed its roots."
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


async def test_input_required_result_request_state(ctx: Ctx) -> Asking:
    if answered(ctx, "confirm") and ctx.request_state == "nonce":
        return "state-ok: confirmation received"
    confirm = form("Please confirm", "ok", "boolean")
    return InputRequiredResult(input_requests={"confirm": confirm}, request_state="nonce")


async def test_input_required_result_multiple_inputs(ctx: Ctx) -> Asking:
    if answered(ctx, "user_name", "greeting", "client_roots"):
        return "All inputs received."
    requests: dict[str, InputRequest] = {
        "user_name": form("What is your name?", "name"),
        "greeting": sampling("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    return InputRequiredResult(input_requests=requests, request_state="multiple-inputs")


async def test_input_required_result_multi_round(ctx: Ctx) -> Asking:
    state = json.loads(ctx.request_state) if ctx.request_state else {"round": 0}
    if state["round"] == 1 and answered(ctx, "step1"):
        name = content_of(ctx, "step1", "name")
        return InputRequiredResult(
            input_requests={"step2": form("Step 2: What is your favorite color?", "color")},
            request_state=json.dumps({"round": 2, "name": name}),
        )
    if state["round"] == 2 and answered(ctx, "step2"):
        return f"{state['name']} likes {content_of(ctx, 'step2', 'color')}."
    return InputRequiredResult(
        input_requests={"step1": form("Step 1: What is your name?", "name")},
        request_state=json.dumps({"round": 1}),
    )


async def test_input_required_result_tampered_state(ctx: Ctx) -> Asking:
    if ctx.request_state is not None:
        return f"state-ok: {ctx.request_state}"
    confirm = form("Please confirm", "ok", "boolean")
    return InputRequiredResult(input_requests={"confirm": confirm}, request_state="round-1")


async def test_input_required_result_capabilities(ctx: Ctx) -> InputRequiredResult:
    capabilities = ctx.client_capabilities
    requests: dict[str, InputRequest] = {}
    if capabilities is not None and capabilities.sampling is not None:
        requests["sample"] = sampling("Say hello")
    if capabilities is not None and capabilities.elicitation is not None:
        requests["ask"] = form("What is your name?", "name")
    return InputRequiredResult(input_requests=requests, request_state="capability-gated")


async def test_trigger_tool_change(ctx: Ctx) -> str:
    await ctx.notify_tools_changed()
    return "tool list changed"


async def test_trigger_prompt_change(ctx: Ctx) -> str:
    await ctx.notify_prompts_changed()
    return "prompt list changed"


async def json_schema_2020_12_tool() -> str:
    return "done"


JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


TOOLS: tuple[Callable[..., Awaitable[Any]], ...] = (
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_logging,
    test_tool_with_progress,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_x_mcp_header,
    test_missing_capability,
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_tampered_state,
    test_input_required_result_capabilities,
    test_trigger_tool_change,
    test_trigger_prompt_change,
    json_schema_2020_12_tool,
)


async def static_text() -> str:
    return "This is the content of the static text resource."


async def static_binary() -> bytes:
    return b"\x89PNG"


async def template(number: str) -> str:
    return json.dumps({"id": number, "data": f"Data for ID: {number}"})


async def watched() -> str:
    return "Watched resource content"


def said(text: str) -> UserMessage:
    return UserMessage(content=TextContent(type="text", text=text))


async def test_simple_prompt() -> list[UserMessage]:
    return [said("This is a simple prompt for testing.")]


async def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    return [said(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


async def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
    return [UserMessage(content=embedded(resourceUri)), said("Please process the resource.")]


async def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(content=image()), said("Please analyze the image above.")]


async def test_input_required_result_prompt(ctx: Ctx) -> list[UserMessage] | InputRequiredResult:
    if answered(ctx, "user_context"):
        return [said(f"Use this context: {content_of(ctx, 'user_context', 'context')}")]
    wanted = form("What context should the prompt use?", "context")
    return InputRequiredResult(input_requests={"user_context": wanted})


PROMPTS: tuple[Callable[..., Awaitable[Any]], ...] = (
    test_simple_prompt,
    test_prompt_with_arguments,
    test_prompt_with_embedded_resource,
    test_prompt_with_image,
    test_input_required_result_prompt,
)


def add_fixtures(server: MCPServer[Any]) -> None:
    """Add what the suite wants to find."""
    for tool in TOOLS:
        server.add_tool(tool, description="Does what its name says.")
    for uri, read in (
        ("test://static-text", static_text),
        ("test://static-binary", static_binary),
        ("test://template/{number}/data", template),
        ("test://watched-resource", watched),
    ):
        server.resource(uri)(read)
    for prompt in PROMPTS:
        server.add_prompt(Prompt.from_function(prompt, description="Says what its name says."))
