"""Pin the images of versions.env, and the base of the lab's own, by digest; needs the registries.

    python -m scripts.pin_images && make cluster-generate

Writes `image:tag@sha256:...` for what each registry serves under the tag now. The lab's own image
is built from this repository and has no digest. Nothing is changed where one image fails.
"""

import hashlib
import re
import sys
from pathlib import Path

import httpx

from lab.command_line import as_main
from lab.errors import SetupError
from lab.settings import REPO

K8S = REPO / "lab" / "k8s"
TIMEOUT_S = 60.0
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_IMAGE = re.compile(
    r"^(?!LAB)(?P<name>[A-Z0-9_]+)=(?!\S*://)(?P<image>[^\s@=,]+/[^\s@=,]+:[^\s@/]+)\S*$"
)


def digest_of(client: httpx.Client, image: str) -> str:
    """Return the digest ("sha256:...") of an image by tag. Raises SetupError."""
    name, _, tag = image.rpartition(":")
    host, _, path = name.partition("/")
    if "." not in host and ":" not in host:
        host, path = "docker.io", name
    host = "registry-1.docker.io" if host == "docker.io" else host
    path = path if "/" in path or host != "registry-1.docker.io" else f"library/{path}"
    scheme = "http" if host.startswith(("127.0.0.1:", "localhost:")) else "https"
    url = f"{scheme}://{host}/v2/{path}/manifests/{tag}"
    try:
        response = client.get(url, headers={"Accept": _ACCEPT})
        if response.status_code == 401:
            token = _token(client, response.headers.get("WWW-Authenticate", ""))
            headers = {"Accept": _ACCEPT, "Authorization": f"Bearer {token}"}
            response = client.get(url, headers=headers)
        response.raise_for_status()
    except (httpx.HTTPError, KeyError, ValueError) as e:
        raise SetupError(
            f"the registry does not serve {image}",
            got=f"{type(e).__name__}: {e}",
            fix="check the tag in versions.env, and the network to the registry",
        ) from e
    digest = f"sha256:{hashlib.sha256(response.content).hexdigest()}"
    reported = response.headers.get("Docker-Content-Digest", digest)
    if reported != digest:
        raise SetupError(
            f"the manifest of {image} does not have the digest that its registry reports",
            got=f"{digest}, reported as {reported}",
            fix="run it again; a proxy may have changed the manifest",
        )
    return digest


def _token(client: httpx.Client, challenge: str) -> str:
    """Return an anonymous token, as the registry's WWW-Authenticate header says."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    response = client.get(fields.pop("realm"), params=fields).raise_for_status()
    answer = response.json()
    return str(answer.get("token") or answer["access_token"])


def pin(versions: Path, dockerfile: Path) -> list[str]:
    """Pin all images in these two files; return them. Raises SetupError, then nothing changed."""
    pinned = {}
    lines = versions.read_text().splitlines()
    with httpx.Client(timeout=TIMEOUT_S, follow_redirects=True) as client:
        for number, line in enumerate(lines):
            if match := _IMAGE.match(line):
                image = match["image"]
                pinned[image] = f"{image}@{digest_of(client, image)}"
                lines[number] = f"{match['name']}={pinned[image]}"

    recipe = dockerfile.read_text()
    for image, full in pinned.items():
        recipe = re.sub(rf"^(FROM {re.escape(image)})\S*", f"FROM {full}", recipe, flags=re.M)
    versions.write_text("\n".join(lines) + "\n")
    dockerfile.write_text(recipe)
    return list(pinned.values())


def main() -> None:
    """Pin all images."""
    images = pin(K8S / "versions" / "versions.env", K8S / "image" / "Dockerfile")
    print(*images, "Now run `make cluster-generate`.", sep="\n")


if __name__ == "__main__":
    sys.exit(as_main(main, "python -m scripts.pin_images", prints_errors=True)())
