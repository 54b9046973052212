"""What the builder says and where it looks; building itself is proven by every other test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import binaries


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        pytest.param(
            (812, 3100, 190.0),
            "building control plane  812/3100 packages, 3 m 10 s so far, about 9 m to go",
            id="under way",
        ),
        pytest.param(
            (10, 3100, 4.0), "building control plane  10/3100 packages, 4 s so far", id="too early to tell"
        ),
        pytest.param(
            (3100, 3100, 700.0), "building control plane  linking 9 programs, 11 m 40 s so far", id="linking"
        ),
    ],
)
def test_progress_estimates_the_rest_from_what_is_done(progress: tuple[int, int, float], line: str) -> None:
    done, total, seconds = progress

    assert binaries.progress_line(done=done, total=total, seconds=seconds) == line


def test_a_machine_without_go_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(binaries.CannotBuild, match=r"install Go 1\.26 or newer"):
        binaries.ensure()


def test_an_old_go_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.22.3\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(binaries.CannotBuild, match=r"Go 1\.22\.3 is too old: install Go 1\.26 or newer"):
        binaries.ensure()


def test_envtest_programs_are_taken_from_kubebuilder_assets(
    built: binaries.Binaries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("kube-apiserver", "etcd", "kubectl"):
        (tmp_path / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    found = binaries.ensure()

    assert found.path("etcd") == tmp_path / "etcd"
    assert found.path("kwok") == built.path("kwok")


def test_incomplete_kubebuilder_assets_are_refused(
    built: binaries.Binaries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "etcd").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    with pytest.raises(binaries.CannotBuild, match="has no kube-apiserver, kubectl"):
        binaries.ensure()
