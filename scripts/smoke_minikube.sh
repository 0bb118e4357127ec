#!/bin/sh
# Stands the overlay minikube-cpu up in a Minikube profile of its own, asks vLLM, the agent, Prometheus, Tempo and Grafana,
# drives a small load from two pods, and removes everything again. Needs minikube with a container engine, 6 CPUs and 14 GiB. About 15 minutes at first.
set -eu
profile=llm-lab-smoke
python=${LAB_PYTHON:-.venvs/lab/bin/python}
. lab/k8s/versions/versions.env
command -v minikube >/dev/null || { echo "minikube is not installed: https://minikube.sigs.k8s.io/docs/start" >&2; exit 1; }

LAB_STATE_DIR=$(mktemp -d)
export LAB_STATE_DIR
trap 'minikube delete --profile "$profile"; rm -rf "$LAB_STATE_DIR"' EXIT

minikube start --profile "$profile" --cni=calico --cpus=6 --memory=14g
"$python" -m scripts.cluster_image --minikube "$profile"
kubectl --context "$profile" apply --server-side -f \
  "https://github.com/prometheus-operator/prometheus-operator/releases/download/$PROMETHEUS_OPERATOR_VERSION/bundle.yaml"
"$python" - "$profile" <<'PY'
import sys
import httpx
import lab
from lab import places
from lab.settings import load_settings
from lab.stack import cluster

context, settings = sys.argv[1], load_settings()
urls = cluster.up(settings, context, "minikube-cpu", progress=lambda rows, s: print(
    f"{s:5.0f} s", "; ".join(f"{r.name}: {r.why or r.progress}" for r in rows if not r.ready)[:200], flush=True))
def ask(method, url, **more):
    return httpx.request(method, url, timeout=120, **more).raise_for_status().json()
chat = {"model": "lab-model", "messages": [{"role": "user", "content": "hello"}]}
assert ask("POST", urls["vllm"] + "/v1/chat/completions", json=chat)["choices"], "vLLM has no answer"
models = ask("GET", urls["llama_stack"] + "/v1/models")["data"]
assert models, "Llama Stack knows no model"
up = ask("GET", urls["prometheus"] + "/api/v1/query", params={"query": "up"})["data"]["result"]
down = [s["metric"]["job"] for s in up if s["value"][1] != "1"]
assert len(up) >= 8 and not down, f"targets down: {down}, up: {len(up)}"
assert httpx.get(urls["tempo"] + "/ready", timeout=60).status_code == 200, "Tempo is not ready"
assert httpx.get(urls["grafana"] + "/api/health", timeout=60).status_code == 200, "Grafana is not healthy"
there = load_settings(place="cluster")
parts, tools = places.status_frame(there), places.tools_frame(there)
assert (parts.state.isin(["ready", "done"])).all(), parts
plan = lab.make_plan(requests=10, arrivals=lab.Poisson(1.0), seed=1, settings=there)
run = places.run_shards(plan, there, shards=2)
answered = int((run.records.status == "ok").sum())
assert len(run.records) == 10 and answered, run
seen = lab.observe(run, there, wait_s=120)
assert seen.requests.trace_complete.any(), seen.arrival
print(f"{len(parts)} pods, {len(tools)} tools, {answered} of 10 answers, {int(seen.requests.trace_complete.sum())} whole traces")
removed = cluster.down(settings, context)
assert "namespaces/llm-lab" in removed
print("the lab stood, answered, and is gone")
PY
