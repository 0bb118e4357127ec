"""What the smoke test makes of a manifest: the container that a kubelet would start."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lab.errors import SetupError, StackError
from tests.k8s.checks import render
from tests.smoke_podman import __main__ as smoke
from tests.smoke_podman import engine, scrape
from tests.smoke_podman.pods import (
    ARBITRARY_UID,
    Document,
    Pod,
    command,
    environment,
    for_podman,
    give_addresses,
    pods_of,
    service_names,
)


@pytest.fixture(scope="module")
def rendered() -> list[Document]:
    """The overlay that is played."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return render.overlay("minikube-cpu")


@pytest.fixture
def documents(rendered: list[Document]) -> list[Document]:
    """A copy to spoil."""
    return copy.deepcopy(rendered)


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[[list[Document], str], list[str]]:
    """arguments(documents, "lab-tools"): podman's arguments for that pod's container."""
    if os.geteuid() != 0:
        pytest.skip("volumes get other owners, which needs root; so does the smoke test")

    def make(documents: list[Document], name: str) -> list[str]:
        pods = pods_of(documents)
        give_addresses(pods)
        pod = next(p for p in pods if p.name == f"{name}-0")
        podman_name, container = pod.containers[-1]
        names = service_names(documents, pods)
        secrets = {"grafana-admin/password": "secret"}
        return command(pod, podman_name, container, tmp_path, documents, names, secrets)

    return make


def test_a_container_is_as_locked_as_its_manifest_says(
    documents: list[Document], arguments: Callable
) -> None:
    """User, group, read-only root, no capability; nothing is writable but the volumes."""
    made = " ".join(arguments(documents, "lab-tools"))
    for option in (
        "--user 10001:10001",
        "--group-add 10001",
        "--read-only --read-only-tmpfs=false",
        "--cap-drop all",
        "--security-opt no-new-privileges",
        "--hostname lab-tools-0",
    ):
        assert option in made
    assert "--add-host otel-collector.llm-lab-obs.svc:10.89.214." in made
    assert "--entrypoint python" in made and made.endswith("svc:4318")


def test_a_pod_without_a_user_gets_one_of_openshifts(
    documents: list[Document], arguments: Callable
) -> None:
    """restricted-v2: any uid, group 0."""
    tools = next(
        d
        for d in documents
        if d["metadata"]["name"] == "lab-tools" and "template" in d.get("spec", {})
    )
    tools["spec"]["template"]["spec"]["securityContext"] = {"runAsNonRoot": True}
    made = " ".join(arguments(documents, "lab-tools"))
    assert f"--user {ARBITRARY_UID}:0" in made and "--group-add" not in made


def test_volumes_belong_to_whom_the_kubelet_gives_them(
    documents: list[Document], arguments: Callable, tmp_path: Path
) -> None:
    """A claim is root's: without fsGroup no other user may write into it."""
    arguments(documents, "llama-stack")
    config = tmp_path / "llm-lab.llama-stack-0/config/config.yaml"
    assert yaml.safe_load(config.read_text())["version"] == 2
    claim = tmp_path / "llm-lab/llama-stack-state"
    assert claim.stat().st_gid == 10001 and claim.stat().st_mode & 0o7777 == 0o2775
    server = next(
        d
        for d in documents
        if d["metadata"]["name"] == "lab-tools" and "template" in d.get("spec", {})
    )
    server["spec"]["template"]["spec"]["volumes"][0] = {
        "name": "state",
        "persistentVolumeClaim": {"claimName": "other"},
    }
    server["spec"]["template"]["spec"]["securityContext"].pop("fsGroup")
    arguments(documents, "lab-tools")
    assert (tmp_path / "llm-lab/other").stat().st_mode & 0o7777 == 0o755


def test_variables_are_filled_in_as_kubernetes_does(documents: list[Document]) -> None:
    """$(NAME) of a variable before it, a pod's own name, an optional Secret that is not there."""
    container = {
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "TEXT", "value": "pod=$(POD),$(UNKNOWN)"},
            {
                "name": "TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}},
            },
        ]
    }
    pod = Pod("p-0", "n", {}, {}, "10.0.0.1", "Job", {"JOB_COMPLETION_INDEX": "1"})
    assert environment(pod, container, {}) == {
        "JOB_COMPLETION_INDEX": "1",
        "POD": "p-0",
        "TEXT": "pod=p-0,$(UNKNOWN)",
    }
    container["env"][2]["valueFrom"]["secretKeyRef"].pop("optional")
    with pytest.raises(StackError, match="needs the Secret s/k"):
        environment(pod, container, {})


def test_a_service_that_maps_ports_is_refused(documents: list[Document]) -> None:
    """A Service's name leads to its pod here, so the numbers must be the same."""
    service = next(
        d for d in documents if d["kind"] == "Service" and d["metadata"]["name"] == "lab-tools"
    )
    service["spec"]["ports"][0]["port"] = 80
    with pytest.raises(StackError, match="maps 80 to 8200"):
        service_names(documents, pods_of(documents))


def test_what_is_replaced_is_said(documents: list[Document]) -> None:
    """Tempo's pod keeps its name; the collector's Service leads to it; Grafana is left out."""
    changed, notes = for_podman(documents)
    pods = {p.name for p in pods_of(changed)}
    assert {"tempo-0", "vllm-0", "llama-stack-0"} <= pods
    assert not {"grafana-0", "otel-collector-0"} & pods
    said = "\n".join(notes)
    assert all(word in said for word in ("Grafana", "Tempo", "collector", "vLLM", "Prometheus"))


def test_prometheus_scrapes_what_the_monitors_select(documents: list[Document]) -> None:
    """A job for each monitor, named by its relabelling, with the labels that the operator adds."""
    changed, _ = for_podman(documents)
    changed += scrape.deployment(changed, "prometheus:1")
    pods = pods_of(changed)
    give_addresses(pods)
    text, left_out = scrape.configuration(changed, pods)
    config = yaml.safe_load(text)
    jobs = {j["relabel_configs"][0]["replacement"]: j for j in config["scrape_configs"]}
    assert {"vllm", "vllm-embed", "llama-stack", "lab-tools", "tempo", "prometheus"} == jobs.keys()
    assert set(left_out) == {"otel-collector", "span-metrics", "grafana"}
    target = jobs["vllm"]["static_configs"][0]
    address = next(p.ip for p in pods if p.name == "vllm-0")
    assert target["targets"] == [f"{address}:8000"]
    assert target["labels"]["namespace"] == "llm-lab" and target["labels"]["pod"] == "vllm-0"
    assert len(yaml.safe_load(scrape.rules(changed))["groups"]) == 3


def test_a_machine_without_podman_is_told_what_to_install(monkeypatch, tmp_path: Path) -> None:
    """With the command; nothing is begun."""
    monkeypatch.setattr(engine, "_program", lambda name: None)
    with pytest.raises(SetupError, match="apt-get install podman runc debootstrap"):
        engine.Engine.prepare(tmp_path / "smoke")
    assert not (tmp_path / "smoke").exists()


def test_where_podman_is_missing_the_checks_say_so_and_go_on(monkeypatch, capsys) -> None:
    """`make check-cluster` runs the containers only where that is possible."""
    monkeypatch.setattr(smoke, "missing_programs", lambda: ["not installed: podman"])
    assert smoke.main(["--fast", "--if-possible"]) == 0
    assert "containers were not run: not installed: podman" in capsys.readouterr().out
