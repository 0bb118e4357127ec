"""Incidents without a stack: the table, draws, records, traffic, and the router of a rollout."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lab.dashboards.rules import alerts
from lab.errors import NotUp, StackError
from lab.incidents import INCIDENTS, current, record, reveal, rollout, start, stop, traffic
from lab.incidents.catalogue import PLAIN_TOOLS
from lab.incidents.record import Record
from lab.settings import Settings, load_settings
from lab.stack import changes
from lab.stack.plan import CANARY
from lab.stack.prometheus_config import ONLY_ON_A_CLUSTER
from lab.workload.plan import TENANTS

NAMES = (
    "slow_tool failing_tool wrong_tool bad_rollout small_kv_cache small_batch_limit "
    "prefix_cache_off unique_system_prompts noisy_neighbour token_runaway retry_storm agent_loop "
    "busy_cpu slow_embeddings hanging_component spans_lost scrape_gap clock_skew"
)
HIDDEN = Record(
    "5f1c", True, 1.0, name="slow_tool", seed=3, strength=0.5, parameters={"tool": "get_quota"}
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings of a lab that is not running."""
    (tmp_path / "run").mkdir()
    return load_settings(state_dir=tmp_path, place="local")


def test_the_table_has_every_incident() -> None:
    """Others use these names as names of causes; every alert named exists on one machine."""
    assert set(INCIDENTS) == set(NAMES.split())
    known = {rule["alert"] for rule in alerts()} - ONLY_ON_A_CLUSTER
    for incident in INCIDENTS.values():
        assert set(incident.alerts) <= known
        assert bool(incident.alerts) == (incident.alert_within_s > 0)


@pytest.mark.parametrize("name", NAMES.split())
def test_a_draw_depends_on_the_seed_alone_and_names_the_place(name: str) -> None:
    """The same seed gives the same parameters, and the place can be named with them."""
    incident = INCIDENTS[name]
    drawn = [incident.draw(Random(f"{name} 7"), 0.6) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "{" not in incident.place.format(**drawn[0])
    assert json.loads(json.dumps(drawn[0])) == drawn[0]


def test_a_hidden_record_shows_nothing(settings: Settings) -> None:
    """Neither the file nor what the API returns has its name, tool or strength, until `reveal`."""
    record.write(settings.state_dir, HIDDEN)
    text = (settings.state_dir / record.FILE).read_text()
    for word in ("slow", "tool", "get_quota", "strength", "0.5"):
        assert word not in text
    shown = current(settings)
    assert shown is not None and (shown.name, shown.parameters, shown.hidden) == ("", {}, True)

    assert reveal(settings).parameters == {"tool": "get_quota"}
    assert "slow_tool" in (settings.state_dir / record.FILE).read_text()


def test_an_incident_without_its_process_has_ended(settings: Settings) -> None:
    """After `lab down` or a kill, it is reported as ended, and `stop` has nothing to do."""
    record.write(settings.state_dir, HIDDEN)
    ended = current(settings)
    assert ended is not None and ended.ended_at == pytest.approx(time.time(), abs=60)
    with pytest.raises(StackError, match="no incident is on"):
        stop(settings)


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("slow_tol", {}, "there is no incident 'slow_tol'"),
        ("slow_tool", {"strength": 2.0}, "strength is out of range"),
        ("slow_tool", {}, "no lab is running"),
    ],
)
def test_what_cannot_be_started_is_refused(
    settings: Settings, name: str, given: dict, error: str
) -> None:
    """With the reason, and without a record."""
    with pytest.raises((StackError, NotUp), match=error):
        start(name, settings, **given)
    assert current(settings) is None


def test_changes_are_sealed_and_read_back(tmp_path: Path) -> None:
    """The file says nothing; a file that cannot be read changes nothing."""
    (tmp_path / "run").mkdir()
    changed = changes.Changes(vllm_args="--max-num-seqs 2", parts=("vllm-canary",))
    changes.write(tmp_path, changed)
    assert "max" not in (tmp_path / changes.FILE).read_text()
    assert changes.read(tmp_path) == changed
    (tmp_path / changes.FILE).write_text("damaged")
    assert changes.read(tmp_path) == changes.NO_CHANGES


@pytest.mark.parametrize("name", [n for n, i in INCIDENTS.items() if i.kind == "traffic"])
def test_traffic_is_of_a_tenant_of_its_own(name: str, settings: Settings) -> None:
    """No other tenant's requests change, and a closed loop never has more than its users."""
    parameters = INCIDENTS[name].draw(Random(1), 0.5)
    plan = traffic.plan(name, parameters, 1, settings)
    assert {r.tenant for r in plan.requests} == {parameters["tenant"]}
    assert parameters["tenant"] not in TENANTS
    assert {r.user for r in plan.requests} == set(range(parameters["users"]))
    assert len({r.request_id for r in plan.requests}) == len(plan)


def test_what_traffic_incidents_send(settings: Settings) -> None:
    """Long prompts share no beginning, retries repeat a question, and a loop offers every tool."""

    def requests(name: str) -> tuple:
        return traffic.plan(name, INCIDENTS[name].draw(Random(1), 0.5), 1, settings).requests

    long = requests("noisy_neighbour")
    assert len({r.text[:40] for r in long}) == len(long) and min(len(r.text) for r in long) > 5000
    retries = Counter(r.session_id.rpartition("-")[0] for r in requests("retry_storm"))
    assert set(retries.values()) == {5}
    loops = requests("agent_loop")
    turns = [r for r in loops if r.session_id == loops[0].session_id]
    assert len({r.text for r in turns}) == 1 and len(turns) == 10
    assert set(turns[0].tools) > set(PLAIN_TOOLS)


def _serve(app: Starlette) -> tuple[str, uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    threading.Thread(target=server.run, daemon=True).start()
    limit = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < limit
        time.sleep(0.01)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", server


def _echo(name: str) -> Starlette:
    async def answer(request: Request) -> JSONResponse:
        body = await request.body()
        sent = json.loads(body) if body else {}
        trace = request.headers.get("traceparent", "")
        return JSONResponse({"by": name, "sent": sent, "trace": trace})

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def test_the_router_sends_a_share_of_chats_to_the_canary() -> None:
    """The model's name is replaced there, the trace goes on, and other paths are never moved."""
    stable, first = _serve(_echo("stable"))
    canary, second = _serve(_echo("canary"))
    router, third = _serve(rollout.router(stable, canary, 0.3, seed=1))
    with httpx.Client(base_url=router, trust_env=False, timeout=60) as client:
        body = {"model": "lab-model", "n": 1}
        headers = {"traceparent": "00-1-2-01"}
        answers = [client.post(rollout.CHAT, json=body, headers=headers).json() for _ in range(300)]
        assert {client.get("/v1/models").json()["by"] for _ in range(20)} == {"stable"}
    moved = [a for a in answers if a["by"] == "canary"]
    assert len(moved) == pytest.approx(90, abs=40)  # five standard deviations
    assert all(a["sent"] == {"model": CANARY, "n": 1} for a in moved)
    assert all(a["sent"] == body for a in answers if a["by"] == "stable")
    assert {a["trace"] for a in answers} == {"00-1-2-01"}
    for server in (first, second, third):
        server.should_exit = True
