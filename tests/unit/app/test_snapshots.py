"""When a conversion must be made anew."""

from spillway.app.snapshots import versions_of


def stored(uid: str = "a", version: str = "1") -> dict[str, dict[str, str]]:
    return {"metadata": {"uid": uid, "resourceVersion": version}}


def test_an_unchanged_set_has_the_same_versions() -> None:
    assert versions_of([stored()]) == versions_of([stored()])


def test_a_written_object_has_another_version() -> None:
    assert versions_of([stored(version="2")]) != versions_of([stored(version="1")])


def test_an_object_made_anew_under_the_same_version_differs() -> None:
    assert versions_of([stored(uid="b")]) != versions_of([stored(uid="a")])
