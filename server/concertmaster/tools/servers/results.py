"""What a tool of a server answers, as text for a model."""

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


def text_of(result: CallToolResult) -> str:
    """Return the text of a result, a sentence for what is no text; or its structured content."""
    if not result.content and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n\n".join(map(_text, result.content))


def _text(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return _not_shown(f"{block.type} of type {block.mime_type}", block.data)
        case ResourceLink():
            about = ", ".join(filter(None, [block.mime_type, block.description]))
            return f"[resource {block.name}: {block.uri}{f' ({about})' if about else ''}]"
        case EmbeddedResource(resource=resource):
            if isinstance(resource, BlobResourceContents):
                return _not_shown(f"resource {resource.uri}", resource.blob)
            return f"[resource {resource.uri}]\n{resource.text}"


def _not_shown(what: str, base64: str) -> str:
    return f"[{what}, {len(base64) * 3 // 4:,} bytes, which cannot be shown here]"
