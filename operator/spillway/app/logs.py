"""Log lines for people or for machines; secrets and whole objects never reach them."""

import logging
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

QUIET = ("kopf", "kubernetes", "urllib3", "aiohttp")


def configure_logging(*, level: str, form: Literal["text", "json"]) -> None:
    """Send everything to standard error, one line a record; libraries speak from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_json() if form == "json" else _text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _text() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def _json() -> logging.Formatter:
    fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
    return JsonFormatter(fields, rename_fields={"asctime": "time", "levelname": "level", "name": "logger"})
