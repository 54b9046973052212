"""Asking a running operator directly, by the URL of its metrics port."""

from collections.abc import Mapping
from typing import Any

import aiohttp

SECONDS = 5.0


class LiveError(Exception):
    """The operator did not answer with what was asked; says what to check."""


async def fetch_live(url: str, path: str) -> Mapping[str, Any]:
    """Return the JSON document at *path*; raises LiveError when there is none within 5 s."""
    where = url.rstrip("/") + path
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session,
            session.get(where) as response,
        ):
            document = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise LiveError(f"{where} does not answer: {exc}. Check --operator-url") from exc
    if not isinstance(document, dict):
        raise LiveError(f"{where} answered something that is no decision. Check --operator-url")
    if "error" in document:
        raise LiveError(str(document["error"]))
    return document
