"""The address of a provider, as an operator may write it."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError


def _without_user(address: str) -> str:
    # Addresses are shown and logged, where a password must not be.
    if "@" in address:
        raise PydanticCustomError(
            "address_with_user",
            "an address must have no user name or password in it; use api_key or auth_token",
        )
    return address


Address = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_without_user)]
