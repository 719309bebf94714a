"""What values that are written to the journal or to the wire have in common."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def whole_characters(text: str) -> str:
    """Return `text` with its characters whole: a half whose other half is missing is a `\ufffd`.

    JSON may spell a character as two halves, neither of which UTF-8 can express.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


Text = Annotated[str, AfterValidator(whole_characters)]
"""Text from outside, which JSON may have spelled with halves of characters."""


class Frozen(BaseModel):
    """Base of the models that are written to the journal or to the wire."""

    # JSON has no word for infinity; what is written as null cannot be read again.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
