"""How many tokens a text has, about, without asking its provider.

Nobody publishes a tokenizer of current models, and to ask the provider is one more request
for each call. So bytes are counted: three to four make a token of English or German, about
three one of code, and three (one character) one of Chinese.
"""

import math

BYTES_OF_SHORT_TOKENS = 2.5
"""What is reckoned with where there have to be enough tokens."""
BYTES_OF_LONG_TOKENS = 4.0


def size(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def most_tokens(length: int) -> int:
    """Return how many tokens a text of so many bytes has: hardly ever more."""
    return math.ceil(length / BYTES_OF_SHORT_TOKENS)
