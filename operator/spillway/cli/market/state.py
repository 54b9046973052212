"""The file that a market process remembers itself by, so that it goes on where a killed one stood."""

import os
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from spillway.adapters.cloud.simulated import MarketRecord

_FORM: Final = TypeAdapter(MarketRecord)


class StateFileError(ValueError):
    """The file does not hold a market; says what to do."""


class StateFile:
    """Holds the last record that was saved; without a path it only compares."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._saved: MarketRecord | None = None

    def load(self) -> MarketRecord | None:
        """Return what was saved last, None where nothing was; raises `StateFileError`."""
        if self._path is None or not self._path.exists():
            return None
        try:
            self._saved = _FORM.validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise StateFileError(
                f"{self._path} holds no state of a market: {exc}. Name another --state, or remove it to start anew."
            ) from exc
        return self._saved

    def save(self, record: MarketRecord) -> bool:
        """Save *record* if more than its time differs from the last one; return whether it did. Raises OSError."""
        last = self._saved
        if last is not None and (last.pools, last.tokens) == (record.pools, record.tokens):
            return False
        if self._path is not None:
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_bytes(_FORM.dump_json(record))
            os.replace(fresh, self._path)  # noqa: PTH105 - whole or not at all, also where we are killed here
        self._saved = record
        return True
