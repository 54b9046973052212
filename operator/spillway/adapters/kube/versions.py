"""Comparing resourceVersions: whole numbers that only grow, on every API server that keeps its objects in etcd."""


def has_reached(seen: str, wanted: str) -> bool:
    """Say whether an object seen at version *seen* includes the write that returned *wanted*.

    Versions that are no numbers (not from etcd) can only be equal or not.
    """
    if seen.isdecimal() and wanted.isdecimal():
        return int(seen) >= int(wanted)
    return seen == wanted


def is_older(version: str, than: str) -> bool:
    """Say whether *version* lies before *than*; False where either is no number, since then nothing can be said."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
