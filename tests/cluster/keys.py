"""The one key that the API server does not make for itself: the one that signs service-account tokens."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

# SEC 1 (RFC 5915) ECPrivateKey on P-256: SEQUENCE { 1, OCTET STRING (32 bytes), [0] OID prime256v1 }. The public half may be
# left out, since every reader can compute it. So no openssl and no cryptography package is needed on the machine.
_PREFIX = bytes.fromhex("30310201010420")
_SUFFIX = bytes.fromhex("a00a06082a8648ce3d030107")
_ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def write_signing_key(path: Path) -> None:
    """Write a new P-256 private key in PEM, readable by us alone."""
    scalar = secrets.randbelow(_ORDER_P256 - 1) + 1
    encoded = base64.encodebytes(_PREFIX + scalar.to_bytes(32, "big") + _SUFFIX).decode()
    path.touch(mode=0o600)
    path.write_text(f"-----BEGIN EC PRIVATE KEY-----\n{encoded}-----END EC PRIVATE KEY-----\n")
