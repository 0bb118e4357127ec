"""The lab's image reaches Minikube, kind and a registry; the programs are simulated."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from lab.errors import StackError
from lab.settings import Settings
from lab.stack import cluster as driver
from lab.stack.cluster import kubectl
from lab.stack.cluster.kubectl import versions
from scripts import cluster_image
from tests.k8s.checks import render
from tests.stack_cluster.fake_cluster import FakeCluster

IMAGE = versions()["LAB"]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a minikube, kind and docker that log their arguments; `image ls` prints `images`."""
    for name in ("minikube", "kind", "docker"):
        path = tmp_path / name
        path.write_text(
            f"""#!{sys.executable}
import pathlib, sys
folder = pathlib.Path({str(tmp_path)!r})
with open(folder / "programs.log", "a") as f:
    f.write("{name} " + " ".join(sys.argv[1:]) + "\\n")
images = folder / "images"
if sys.argv[-2:] == ["image", "ls"] and images.exists():
    print(images.read_text())
"""
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_a_build_in_minikube_that_failed_is_an_error(programs: Path, capsys) -> None:
    """The list of images decides, as Minikube's exit status is 0 either way."""
    assert cluster_image.main(["--minikube", "lab"]) == 1
    assert f"did not make {IMAGE}" in capsys.readouterr().err
    (programs / "images").write_text(f"docker.io/{IMAGE}\nregistry.k8s.io/pause:3.10\n")
    assert cluster_image.main(["--minikube", "lab"]) == 0
    assert "minikube --profile lab image build -f lab/k8s/image/Dockerfile" in _log(programs)


def test_kind_is_one_command(programs: Path, cluster: FakeCluster, settings: Settings) -> None:
    """One command builds and loads the image, after which the preflight passes on kind."""
    assert cluster_image.main(["--kind", "lab"]) == 0
    assert f"kind load docker-image {IMAGE} --name lab" in _log(programs)
    cluster.healthy()
    cluster.objects.pop("apis/apps/v1/namespaces/kube-system/daemonsets/calico-node")
    cluster.put("apis/apps/v1/namespaces/kube-system/daemonsets/kindnet", spec={"template": {}})
    images = [{"names": [f"docker.io/{IMAGE}"]}]
    cluster.objects["api/v1/nodes/one"]["status"]["images"] = images
    assert [f for f in driver.preflight(settings, "fake", "minikube-cpu") if not f.ok] == []


def test_a_private_registry_is_one_command(programs: Path, tmp_path: Path) -> None:
    """One command builds, pushes and writes an overlay that differs only in the image."""
    overlays = kubectl.K8S / "overlays"
    folder = overlays / "minikube-cpu-registry"
    try:
        assert cluster_image.main(["--registry", "registry.example.com/team"]) == 0
        image = f"registry.example.com/team/lab:{IMAGE.rpartition(':')[2]}"
        assert f"docker push {image}" in _log(programs)
        rendered = render.folder(folder)
        text = str(rendered)
        assert image in text and f"'{IMAGE}'" not in text
        assert len(rendered) == len(render.overlay("minikube-cpu"))
    finally:
        for path in folder.glob("*"):
            path.unlink()
        folder.rmdir()


def test_a_registry_needs_an_overlay_that_exists(programs: Path, capsys) -> None:
    """Nothing is built for an overlay that does not exist."""
    assert cluster_image.main(["--registry", "r.example.com", "--overlay", "nope"]) == 1
    assert "there is no overlay 'nope'" in capsys.readouterr().err
    assert not (programs / "programs.log").exists()


def test_a_program_that_fails_is_reported(programs: Path) -> None:
    """The error contains the complete command line."""
    (programs / "docker").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(StackError, match=r"docker build .* failed"):
        cluster_image.into_kind("lab")


def _log(folder: Path) -> str:
    return (folder / "programs.log").read_text()
