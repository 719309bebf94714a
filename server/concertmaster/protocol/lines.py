"""Texts from elsewhere in one line each."""


def one_line(text: str, limit: int) -> str:
    """Return `text` in one line of at most `limit` characters, without control characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: limit * 4])
    line = " ".join(line.split())
    return line if len(line) <= limit and len(text) <= limit * 4 else f"{line[: limit - 1]}…"
