"""What a tool of a server answers: text for a model, and what is said to be an image."""

import json

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

from concertmaster.llm.fencing import quoted, spelled
from concertmaster.llm.images import decoded_bytes
from concertmaster.tools.images import OfferedImage


def parts_of(result: CallToolResult) -> list[str | OfferedImage]:
    """Return the parts of a result, a sentence for what is neither; or its structured content."""
    if not result.content and result.structured_content is not None:
        return [json.dumps(result.structured_content, ensure_ascii=False)]
    return list(map(_part, result.content))


def _part(block: ContentBlock) -> str | OfferedImage:
    match block:
        case TextContent():
            return block.text
        case ImageContent():
            return OfferedImage(media_type=block.mime_type, data=block.data)
        case AudioContent():
            return _not_shown(f"audio of type {block.mime_type}", block.data)
        case ResourceLink():
            about = ", ".join(filter(None, [block.mime_type, block.description]))
            place = f"{quoted(block.name)}: {spelled(str(block.uri))}"
            return f"[resource {place}{f' ({about})' if about else ''}]"
        case EmbeddedResource(resource=resource):
            if isinstance(resource, BlobResourceContents):
                return _blob(resource)
            return f"[resource {spelled(str(resource.uri))}]\n{resource.text}"


def _blob(resource: BlobResourceContents) -> str | OfferedImage:
    media_type = resource.mime_type or ""
    if media_type.startswith("image/"):
        return OfferedImage(media_type=media_type, data=resource.blob, uri=str(resource.uri))
    return _not_shown(f"resource {spelled(str(resource.uri))}", resource.blob)


def _not_shown(what: str, base64: str) -> str:
    return f"[{what}, {decoded_bytes(base64):,} bytes, which cannot be shown here]"
