"""A scripted endpoint that speaks the Messages API: every call streams the same text."""

import json
from collections.abc import AsyncGenerator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PIECES = 100
PIECE = "some words of text "


def _event(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


async def _reply(model: str) -> AsyncGenerator[bytes]:
    message: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 1},
    }
    yield _event("message_start", message=message)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    delta = {"type": "text_delta", "text": PIECE}
    for _ in range(PIECES):
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _event("message_delta", delta=end, usage={"output_tokens": 4 * PIECES})
    yield _event("message_stop")


async def messages(request: Request) -> StreamingResponse:
    """Answer POST /v1/messages."""
    body = await request.json()
    return StreamingResponse(_reply(body["model"]), media_type="text/event-stream")


app = Starlette(routes=[Route("/v1/messages", messages, methods=["POST"])])


def main(port: int) -> None:
    """Serve on loopback until the process is ended."""
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    import sys

    main(int(sys.argv[1]))
