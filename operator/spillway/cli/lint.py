"""`spillway lint`: manifests checked offline, by the same rules as the API server and the operator."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import yaml

from spillway.api.convert import lint as problems_of
from spillway.api.kinds import KINDS

_STDIN: Final = "-"
_KINDS: Final = frozenset(kind.kind for kind in KINDS)
_STEP: Final = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to say about a file. A note leaves the exit code at 0. `line` counts from 1."""

    file: str
    line: int
    object: str
    field: str
    message: str
    is_note: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    file: str
    node: yaml.Node
    manifest: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str, str]:
        metadata = self.manifest.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        namespace = metadata.get("namespace") or "" if self.manifest.get("kind") == "GpuWorkload" else ""
        return str(self.manifest.get("kind")), str(namespace), str(metadata.get("name") or "")

    def says(self, field: str, message: str, *, is_note: bool = False) -> Finding:
        kind, namespace, name = self.identity
        return Finding(
            file=self.file,
            line=_line(self.node, field),
            object=f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}",
            field=field,
            message=message,
            is_note=is_note,
        )


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def lint(files: tuple[str, ...], form: str) -> None:
    """Check GpuWorkloads, GpuNodePools and GpuPolicies in YAML files, without a cluster.

    FILE is a file, a directory (its *.yaml and *.yml, at any depth) or - for standard input. Other kinds are passed over.

    Exit code: 0 good, 1 problems found, 2 a file cannot be read or there is nothing to check.
    """
    documents = [found for name in files for found in _documents(name)]
    if not documents:
        raise click.UsageError(f"nothing to check; give files that hold one of {', '.join(sorted(_KINDS))}")
    findings = [*_own_problems(documents), *_duplicates(documents), *_absent_policies(documents)]
    findings.sort(key=lambda found: (found.file, found.line, found.field))
    click.echo(_as_json(findings) if form == "json" else _as_text(findings, len(documents)))
    if not all(found.is_note for found in findings):
        sys.exit(1)


def _own_problems(documents: list[_Document]) -> Iterator[Finding]:
    for document in documents:
        for problem in problems_of(document.manifest):
            yield document.says(problem.field, problem.message)


def _duplicates(documents: list[_Document]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str], _Document] = {}
    for document in documents:
        if not document.identity[2]:
            continue
        earlier = first.setdefault(document.identity, document)
        if earlier is not document:
            where = f"{earlier.file}:{_line(earlier.node, 'metadata.name')}"
            yield document.says(
                "metadata.name", f"metadata.name: also at {where}; the later one would win, keep one"
            )


def _absent_policies(documents: list[_Document]) -> Iterator[Finding]:
    known = {name for kind, _, name in (document.identity for document in documents) if kind == "GpuPolicy"}
    for document in documents:
        spec = document.manifest.get("spec")
        reference = spec.get("policyRef") if isinstance(spec, Mapping) else None
        name = reference.get("name") if isinstance(reference, Mapping) else None
        if isinstance(name, str) and name not in known:
            message = f"spec.policyRef.name: no GpuPolicy {name} in these files; it must be in the cluster"
            yield document.says("spec.policyRef.name", message, is_note=True)


def _documents(name: str) -> Iterator[_Document]:
    for file in _files(name):
        try:
            text = sys.stdin.read() if file == _STDIN else Path(file).read_text(encoding="utf-8")
            pairs = list(zip(yaml.compose_all(text, yaml.SafeLoader), yaml.safe_load_all(text), strict=True))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise click.UsageError(f"{file}: cannot be read as YAML ({exc})") from exc
        for node, manifest in pairs:
            if isinstance(manifest, Mapping) and _is_ours(manifest):
                yield _Document(file="stdin" if file == _STDIN else file, node=node, manifest=manifest)


def _is_ours(manifest: Mapping[str, Any]) -> bool:
    """A kind of ours, or one that claims to be: a misspelt kind must not pass unseen."""
    return manifest.get("kind") in _KINDS or str(manifest.get("apiVersion")).startswith("spillway.")


def _files(name: str) -> list[str]:
    if name == _STDIN or not Path(name).is_dir():
        return [name]
    return sorted(str(file) for file in Path(name).rglob("*") if file.suffix in {".yaml", ".yml"})


def _line(node: yaml.Node, field: str) -> int:
    """Return the line of a field, or of the nearest block around it that is written."""
    line = node.start_mark.line
    for step in _STEP.findall(field):
        inner = None
        if isinstance(node, yaml.MappingNode):
            inner = next(((key, value) for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            inner = (node.value[int(step)],) * 2
        if inner is None:
            break
        line, node = inner[0].start_mark.line, inner[1]
    return line + 1


def _as_json(findings: list[Finding]) -> str:
    return json.dumps([asdict(found) for found in findings], indent=2)


def _as_text(findings: list[Finding], checked: int) -> str:
    lines = [
        f"{found.file}:{found.line}: {'note' if found.is_note else 'problem'}: {found.object}: {found.message}"
        for found in findings
    ]
    count = sum(not found.is_note for found in findings)
    return "\n".join([*lines, f"{checked} checked, {count} problems, {len(findings) - count} notes"])
