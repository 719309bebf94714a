"""An MCP server that is not ours, without the SDK, and with every fault that one may have.

It speaks the older protocol version only. What it is to do wrong at its start is in its
arguments; all else is in its tools.
"""

import base64
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]

FLOOD_CHARS = 10_000_000
READ_ONLY = {"annotations": {"readOnlyHint": True}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAAC0lEQVR4nGNgAAIAAAUAAXpeqz8AAAAASUVORK5CYII="
GIF = base64.b64encode(b"GIF89a012345").decode()
DATA = base64.b64encode(b"0123456789ab").decode()

TOOLS: dict[str, Json] = {
    name: {
        "name": name,
        "description": f"the tool {name}",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
    }
    | traits
    for name, traits in {
        "echo": READ_ONLY,
        "environment": READ_ONLY,
        "hang": READ_ONLY,
        "die": READ_ONLY,
        "flood": READ_ONLY,
        "picture": READ_ONLY,
        "draw": READ_ONLY,
        "structured": READ_ONLY,
        "refuse": READ_ONLY,
        "break": READ_ONLY,
        "rubbish": READ_ONLY,
        "mumble": READ_ONLY,
        "pour": READ_ONLY,
        "learn": READ_ONLY,
        "commit": {},
        "endless": {"description": "x" * 60_000},
    }.items()
}


def say(message: Json) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
    sys.stdout.flush()


def text(content: str) -> Json:
    return {"content": [{"type": "text", "text": content}]}


def environment(_: str) -> Json:
    return text(json.dumps(dict(os.environ)))


def die(_: str) -> Json:
    os._exit(3)


def picture(_: str) -> Json:
    blob = {"uri": "file:///b.bin", "blob": DATA}
    note = {"uri": "file:///a.txt", "text": "as it says"}
    more = {"mimeType": "text/plain", "description": "the second"}
    return {
        "content": [
            {"type": "image", "data": DATA, "mimeType": "image/png"},
            {"type": "audio", "data": DATA, "mimeType": "audio/wav"},
            {"type": "resource_link", "name": "a", "uri": "file:///a.txt"},
            {"type": "resource_link", "name": "b", "uri": "file:///b.txt"} | more,
            {"type": "resource", "resource": note},
            {"type": "resource", "resource": blob},
        ]
    }


def draw(said: str) -> Json:
    drawn = {"uri": "file:///b.gif", "mimeType": "image/gif", "blob": GIF}
    content = [
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "resource", "resource": drawn},
    ]
    return {"content": content, "isError": said == "wrong"}


def rubbish(_: str) -> Json:
    sys.stdout.write("this is no JSON\n{}\n")
    return {"content": "nothing"}


def mumble(said: str) -> Json:
    sys.stdout.buffer.write(b"\xff\xfe caf\xe9\n")
    sys.stdout.buffer.flush()
    return text(said)


def pour(_: str) -> Json | None:
    """Write a line that does not end."""
    for _megabyte in range(200):
        sys.stdout.write("x" * 1_000_000)
    return None


def learn(_: str) -> Json:
    TOOLS["learned"] = TOOLS["echo"] | {"name": "learned"}
    say({"method": "notifications/tools/list_changed"})
    return text("learned")


def commit(said: str) -> Json:
    with Path(os.environ["EFFECTS"]).open("a", encoding="utf-8") as effects:
        effects.write(f"{said}\n")
    return text("committed")


CALLS: dict[str, Callable[[str], Json | None]] = {
    "echo": text,
    "learned": text,
    "environment": environment,
    "hang": lambda _: None,
    "die": die,
    "flood": lambda _: text("x" * FLOOD_CHARS),
    "picture": picture,
    "draw": draw,
    "structured": lambda _: {"content": [], "structuredContent": {"n": 1}},
    "refuse": lambda said: text(f"It cannot be done: {said}") | {"isError": True},
    "rubbish": rubbish,
    "mumble": mumble,
    "pour": pour,
    "learn": learn,
    "commit": commit,
}
"""What each tool answers to a text; nothing if it never does."""


def answer(message: Json) -> Json | None:
    """Return the result of a request; nothing if it gets none."""
    match message["method"]:
        case "initialize":
            if "--silent" in sys.argv:
                return None
            name = "concertmaster" if "--ours" in sys.argv else "foreign"
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": name, "version": "1.2"},
            }
        case "tools/list" if "--no-list" in sys.argv:
            return None
        case "tools/list" if "--bad-list" in sys.argv:
            return {"tools": [{"name": "no-object", "inputSchema": {"type": "string"}}]}
        case "tools/list":
            # In two pages.
            names = list(TOOLS)
            cursor = message.get("params", {}).get("cursor")
            if cursor is None or "--endless-list" in sys.argv:
                return {"tools": [TOOLS[names[0]]], "nextCursor": "1"}
            return {"tools": [TOOLS[name] for name in names[1:]]}
        case "tools/call":
            params = message["params"]
            return CALLS[params["name"]](params["arguments"].get("text", ""))
        case other:
            raise KeyError(other)


def reply(message: Json) -> None:
    try:
        result = answer(message)
    except KeyError as exc:
        say({"id": message["id"], "error": {"code": -32601, "message": f"there is no {exc}"}})
        return
    if result is not None:
        say({"id": message["id"], "result": result})


def main() -> None:
    if pids := os.environ.get("PIDS"):
        with Path(pids).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    if "--die" in sys.argv:
        sys.exit(f"no licence for {os.environ['KEY']}")
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--pour" in sys.argv:
        pour("")
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            reply(message)
    while "--stubborn" in sys.argv:
        signal.pause()


if __name__ == "__main__":
    main()
