"""Build the lab's image and bring it to a cluster: to Minikube, kind, or a registry of your own.

    python -m scripts.cluster_image --minikube PROFILE
    python -m scripts.cluster_image --kind CLUSTER
    python -m scripts.cluster_image --registry HOST/FOLDER [--overlay minikube-cpu]

For a registry it also writes the overlay <overlay>-registry, which takes the image from there.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from lab.command_line import as_main, refuse
from lab.errors import SettingsError, SetupError, StackError
from lab.settings import REPO
from lab.stack.cluster.kubectl import K8S, versions

DOCKERFILE = "lab/k8s/image/Dockerfile"
_OVERLAY = """\
# Written by `make cluster-image REGISTRY={registry}`; not in Git.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../{overlay}]
images:
  - {{name: {name}, newName: {registry}/lab}}
"""


def bring_image(
    minikube: Annotated[
        str, typer.Option(metavar="PROFILE", help="Build it in this Minikube.")
    ] = "",
    kind: Annotated[
        str, typer.Option(metavar="CLUSTER", help="Build it here, load it into this kind.")
    ] = "",
    registry: Annotated[
        str, typer.Option(metavar="HOST/FOLDER", help="Build it here, push it there.")
    ] = "",
    overlay: Annotated[str, typer.Option(help="With --registry: to build on.")] = "minikube-cpu",
) -> None:
    """Build the lab's image and bring it to one of Minikube, kind, or a registry of your own."""
    if len([place for place in (minikube, kind, registry) if place]) != 1:
        raise refuse("name one of them", "--minikube, --kind, --registry")
    if minikube:
        into_minikube(minikube)
    elif kind:
        into_kind(kind)
    else:
        print(f"lab up --overlay {to_registry(registry, overlay)} takes it from there")


def into_minikube(profile: str) -> None:
    """Build the image in a Minikube profile. Raises SetupError, StackError."""
    image = versions()["LAB"]
    minikube = _program("minikube")
    _run([minikube, "--profile", profile, "image", "build", "-f", DOCKERFILE, "-t", image, "."])
    # Its exit status is 0 even where the build has failed.
    there = _run([minikube, "--profile", profile, "image", "ls"], show=False).split()
    if not any(name == image or name.endswith(f"/{image}") for name in there):
        raise StackError(f"the build did not make {image}", fix="read what it printed above")


def into_kind(cluster: str) -> None:
    """Build the image here and load it into a kind cluster. Raises SetupError, StackError."""
    image = versions()["LAB"]
    kind = _program("kind")
    _build(image)
    _run([kind, "load", "docker-image", image, "--name", cluster])


def to_registry(registry: str, overlay: str, overlays: Path = K8S / "overlays") -> str:
    """Build the image here, push it, write an overlay that takes it from there; return its name.

    Raises SetupError, StackError, and SettingsError for an overlay that does not exist.
    """
    if not (overlays / overlay).is_dir():
        raise SettingsError(f"there is no overlay {overlay!r}", got=f"in {overlays}")
    name, _, tag = versions()["LAB"].rpartition(":")
    image = f"{registry}/lab:{tag}"
    engine = _build(image)
    _run([engine, "push", image])
    folder = overlays / f"{overlay}-registry"
    folder.mkdir(exist_ok=True)
    text = _OVERLAY.format(registry=registry, overlay=overlay, name=name)
    (folder / "kustomization.yaml").write_text(text)
    return folder.name


def _build(image: str) -> str:
    """Build the image with docker or podman; return which."""
    engine = shutil.which("docker") or _program("podman")
    _run([engine, "build", "-f", DOCKERFILE, "-t", image, "."])
    return engine


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"{name} is not installed", fix=f"install {name}, then run it again")
    return found


def _run(command: list[str], show: bool = True) -> str:
    """Run a command in the repository's root; what it prints is shown, or returned."""
    done = subprocess.run(command, cwd=REPO, stdout=None if show else subprocess.PIPE, text=True)
    if done.returncode:
        words = " ".join(command)
        raise StackError(f"`{words}` failed", got=f"exit status {done.returncode}")
    return done.stdout or ""


main = as_main(bring_image, "python -m scripts.cluster_image", prints_errors=True)


if __name__ == "__main__":
    sys.exit(main())
