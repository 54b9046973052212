"""Writes the CRDs from the models: `python -m spillway.api.crdgen DIR`. `make verify` fails when `crds/` differs."""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from spillway.api import names
from spillway.api.kinds import KINDS
from spillway.api.markers import Kind, PrinterColumn
from spillway.api.schema import Schema, for_server, structural

_HEADER: Final = "# Generated from operator/spillway/api; edit the models and run `make verify`.\n"
_WIDTH: Final = 110
_STANDARD: Final[Schema] = {
    "apiVersion": {
        "type": "string",
        "description": "Version of this schema; see the Kubernetes API conventions.",
    },
    "kind": {"type": "string", "description": "Kind of the object; see the Kubernetes API conventions."},
    "metadata": {"type": "object"},
}


def render() -> dict[str, str]:
    """Return the text of every CRD file by its name. The same models always give the same text."""
    return {f"{kind.plural}.{names.GROUP}.yaml": _HEADER + _to_yaml(definition(kind)) for kind in KINDS}


def definition(kind: Kind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of *kind* as an object.

    Raises `StructuralError` with the field's path when a model says what a CRD cannot.
    """
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": _names(kind),
            "scope": "Namespaced" if kind.is_namespaced else "Cluster",
            "versions": [_version(kind)],
        },
    }


def _names(kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
        "shortNames": [kind.short],
        "categories": [names.CATEGORY],
    }


def _version(kind: Kind) -> dict[str, Any]:
    subresources: dict[str, Any] = {"status": {}}
    if kind.has_scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": _root(kind)},
        "subresources": subresources,
    }


def _column(column: PrinterColumn) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
    }
    return shown | ({"priority": column.priority} if column.priority else {})


def _root(kind: Kind) -> Schema:
    return {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],  # status never is: it must be possible to report an error on a bare object
        "properties": _STANDARD
        | {
            "spec": for_server(structural(kind.spec, "spec")),
            "status": for_server(structural(kind.status, "status")),
        },
    }


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  yaml asks; anchors would hide repeated parts
        """Write every part out."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  yaml's own name
        """Indent lists below their key, as controller-gen and kubectl do not but people read more easily."""
        super().increase_indent(flow, False)


def _to_yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True)


def main(folder: Path) -> None:
    """Write every CRD into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "crds"))
