"""Settings given on the command line as NAME=VALUE, and the option of every command that reads pictures."""

import json
from typing import Annotated, Any

import typer

from fusionerlib.errors import FusionerError


def pairs(settings: list[str]) -> dict[str, str]:
    """``["a=1", "b=x=y"]`` as ``{"a": "1", "b": "x=y"}``; FusionerError for one without a name or a "="."""
    for setting in settings:
        if setting.find("=") < 1:
            raise FusionerError(f"{setting!r} sets nothing: write NAME=VALUE, such as steps=200")
    return dict(setting.split("=", 1) for setting in settings)


def parsed(text: str) -> Any:
    """``text`` read as JSON, or as it stands where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _allowed(given: bool) -> bool:
    if given:
        from fusionerlib.images import allow_large

        allow_large()
    return given


AllowLarge = Annotated[
    bool,
    typer.Option("--allow-large", callback=_allowed, help="Read pictures of more than 179 million pixels too."),
]
