"""Good and bad manifests; the same ones go through the models here and through the real API server in tests/cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "samples"
_EXPECT = "# expect: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A manifest, and for a bad one the fragments that every refusal must contain, in any case of letters."""

    name: str
    manifest: dict[str, Any]
    expected: tuple[str, ...]

    def missing_from(self, message: str) -> list[str]:
        return [fragment for fragment in self.expected if fragment.lower() not in message.lower()]


def load(kind: str) -> list[Sample]:
    """Load all samples of *kind* (`good`, `bad`), sorted by name."""
    return [_read(file) for file in sorted((FOLDER / kind).glob("*.yaml"))]


def _read(file: Path) -> Sample:
    text = file.read_text(encoding="utf-8")
    expected = tuple(line.removeprefix(_EXPECT) for line in text.splitlines() if line.startswith(_EXPECT))
    return Sample(name=file.stem, manifest=yaml.safe_load(text), expected=expected)
