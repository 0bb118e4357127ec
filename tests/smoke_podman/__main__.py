"""Run the rendered overlay minikube-cpu with podman, and prove that it works.

    python -m tests.smoke_podman [--fast]

--fast ends when every probe has answered and the documents are indexed: no Prometheus, no load.
"""

import base64
import gzip
import secrets
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

import lab
from lab.command_line import as_main
from lab.settings import REPO, Settings, load_settings
from lab.stack.cluster import shards as shard_records
from lab.stack.cluster.kubectl import K8S, render, versions
from lab.stack.toolbox import find_tools
from lab.workload import Run, join_shards
from tests.smoke_podman import proof, scrape
from tests.smoke_podman.engine import Engine, missing_programs
from tests.smoke_podman.images import Builder
from tests.smoke_podman.play import Player
from tests.smoke_podman.pods import for_podman, give_addresses, pods_of

OVERLAY = "minikube-cpu"
SHARDS = 2
REQUESTS = 40
LEAD_S = 25.0  # both shards must be up before they begin together
_BEGUN = time.monotonic()


def play_overlay(
    fast: Annotated[bool, typer.Option("--fast", help="No Prometheus and no load.")] = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the images for the next time (5 GB).")
    ] = False,
    if_possible: Annotated[
        bool, typer.Option("--if-possible", help="Where containers cannot run, only say so.")
    ] = False,
) -> None:
    """Run the rendered overlay minikube-cpu with podman, and prove that it works."""
    if if_possible and (missing := missing_programs()):
        print(f"containers were not run: {'; '.join(missing)}")
        return
    smoke(load_settings().state_dir.resolve() / "smoke-podman", fast, keep_images)


def smoke(folder: Path, fast: bool, keep_images: bool) -> None:
    """Build the images, play the overlay, prove it, take it down. Raises what did not work."""
    engine = Engine.prepare(folder)
    engine.take_down()  # of a run that was killed
    shutil.rmtree(folder / "logs", ignore_errors=True)
    (folder / "logs").mkdir()
    try:
        builder = Builder(engine, find_tools(), say)
        builder.debian()
        builder.lab()
        builder.vllm()
        if not fast:
            builder.program(versions()["PROMETHEUS"], Path(builder.tools.prometheus))
        say("images are there")
        _play(engine, fast)
    finally:
        left = engine.take_down()
        if not keep_images:
            say("removing the images")
            engine.run("system", "reset", "--force", check=False, timeout_s=1800)
    say(f"taken down; left behind: {', '.join(left) or 'nothing'}")


def say(text: str) -> None:
    """Print a step with the seconds since the start."""
    print(f"{time.monotonic() - _BEGUN:6.1f} s  {text}", flush=True)


def _play(engine: Engine, fast: bool) -> None:
    documents, notes = for_podman(render(OVERLAY))
    if not fast:
        documents += scrape.deployment(documents, versions()["PROMETHEUS"])
    pods = pods_of(documents)
    give_addresses(pods)
    if not fast:
        text, jobs = scrape.configuration(documents, pods)
        documents.append(scrape.config_map(documents, "prometheus-lab", "prometheus.yml", text))
        notes.append(f"left out, with their pods: the scrape jobs {', '.join(jobs)}")
    for note in notes:
        say(note)
    engine.start_network()
    passwords = {"grafana-admin/password": secrets.token_urlsafe(18)}
    player = Player(engine, documents, pods, passwords, say)
    try:
        player.start()
        for pod in (p for p in pods if p.kind == "Job"):
            player.run_job(pod)
            say(f"Job {pod.name} is done")
        settings = _settings(engine.folder, player.names)
        say(proof.documents(settings, REPO / "data/world/documents"))
        if not fast:
            run, per_shard = _load(player, settings)
            say(proof.load(run, SHARDS, per_shard))
            say(proof.traces(run, settings))
            proof.wait_for_scrape(run, settings)
            say(proof.targets(settings))
            say(proof.panels_with_data(run, settings, say))
    finally:
        player.save_logs()


def _load(player: Player, settings: Settings) -> tuple[Run, list[int]]:
    """Drive one plan from the load Job's pods; return the whole run and each shard's requests."""
    plan = lab.make_plan(requests=REQUESTS, arrivals=lab.Poisson(2.0), seed=1, settings=settings)
    run_id = "smoke-podman"
    documents = render("load", K8S)
    shard_records.fill_in(documents, SHARDS, run_id, time.time() + LEAD_S)
    saved = Path(plan.save(player.engine.folder / "plan.jsonl")).read_bytes()
    packed = base64.b64encode(gzip.compress(saved)).decode()
    meta = {"name": "load-plan", "namespace": "llm-lab"}
    data = {"plan.jsonl.gz": packed}
    documents.append({"kind": "ConfigMap", "metadata": meta, "binaryData": data})
    pods = pods_of(documents)
    give_addresses(pods, first=100)
    driver = Player(player.engine, documents, pods, {}, say)
    driver.names = player.names
    with ThreadPoolExecutor(len(pods)) as pool:
        logs = list(pool.map(driver.run_job, pods))
    records = player.engine.folder / "volumes" / "records"
    runs = []
    for index, log in enumerate(logs):
        folder = shard_records.unpack_record(log, pods[index].name, records / f"shard-{index}")
        plan.shard(index, SHARDS).save(folder / "plan.jsonl")
        runs.append(Run.load(folder))
    return join_shards(plan, runs, run_id), [len(r.records) for r in runs]


def _settings(folder: Path, names: dict[str, str]) -> Settings:
    """Return settings that reach the pods at their addresses."""
    services = {
        "llama_stack": ("llama-stack.llm-lab.svc", 8321),
        "vllm": ("model-server.llm-lab.svc", 8000),
        "vllm_embed": ("embed-server.llm-lab.svc", 8000),
        "tempo": ("tempo.llm-lab-obs.svc", 3200),
        "otlp": ("otel-collector.llm-lab-obs.svc", 4318),
        "prometheus": ("prometheus.llm-lab-obs.svc", 9090),
    }
    urls = {
        f"{name}_url": f"http://{names[service]}:{port}"
        for name, (service, port) in services.items()
        if service in names
    }
    # Llama Stack calls the tools, so requests name them as the pods know them.
    urls["mcp_url"] = "http://lab-tools.llm-lab.svc:8200"
    return load_settings(state_dir=folder / "volumes" / "state", **urls)


main = as_main(play_overlay, "python -m tests.smoke_podman", prints_errors=True)


if __name__ == "__main__":
    sys.exit(main())
