"""Build the lab's image and bring it to a cluster: to Minikube, kind, or a registry of your own.

    python -m scripts.cluster_image --minikube PROFILE
    python -m scripts.cluster_image --kind CLUSTER
    python -m scripts.cluster_image --registry HOST/FOLDER [--overlay minikube-cpu]

For a registry it also writes the overlay <overlay>-registry, which takes the image from there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from lab.errors import LabError, SettingsError, SetupError, StackError
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


def main(argv: list[str] | None = None) -> int:
    """Return exit status 1 if the image is not where it should be, with the reason."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.cluster_image", description=__doc__.splitlines()[0]
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--minikube", metavar="PROFILE", help="build it in this Minikube")
    place.add_argument("--kind", metavar="CLUSTER", help="build it here, load it into this kind")
    place.add_argument("--registry", metavar="HOST/FOLDER", help="build it here, push it there")
    parser.add_argument("--overlay", default="minikube-cpu", help="with --registry: to build on")
    args = parser.parse_args(argv)
    try:
        if args.minikube:
            into_minikube(args.minikube)
        elif args.kind:
            into_kind(args.kind)
        else:
            print(
                f"lab up --overlay {to_registry(args.registry, args.overlay)} takes it from there"
            )
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
