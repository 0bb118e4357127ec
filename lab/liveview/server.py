"""The live view's server: the page, what it shows of the lab, and read-only queries to the stores.

Prometheus allows no web page to read it, so the page queries this server, on its own origin. Only
the paths in `FORWARDED` are passed on, only by GET, and never with a login: all users of this
machine can open the page.
"""

import functools
import json
import re
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lab import stack
from lab.dashboards import DASHBOARDS, grafana_json
from lab.errors import LabError, NotUp, StoreError
from lab.settings import REPO, Settings, hide_password, load_settings
from lab.stack import prometheus_config, state
from lab.stack.ports import HOST
from lab.stores.http import HttpClient
from lab.tools.origin import AllowedHosts, RefuseForeignPages

PAGE = Path(__file__).with_name("page")
TRACES_PAGE = REPO / "lab/tracestore/page.html"  # needs nothing but Tempo's API
CLUSTER_SCRAPE_INTERVAL = "5s"  # of lab/k8s/base/monitors
# Store -> the paths of its API that are passed on.
FORWARDED = {
    "prometheus": r"/api/v1/(query|query_range|labels|label/[^/]+/values|series|metadata|rules"
    r"|alerts|targets|status/flags)",
    "tempo": r"/api/(search|traces/\w+|v2/traces/\w+|v2/search/tags|v2/search/tag/[^/]+/values"
    r"|metrics/query_range|metrics/query)",
}
# CodeMirror and uPlot set styles; scripts come from this server only.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'"
)
TRACES_POLICY = POLICY.replace("script-src 'self'", "script-src 'unsafe-inline'")


def make_app() -> Starlette:
    """Return the application. The settings are loaded for each request: parts can move."""
    routes = [
        Route("/", lambda _: _file(PAGE / "index.html", POLICY)),
        Route("/{name}.{kind:str}", _asset),
        Route("/traces", lambda _: _file(TRACES_PAGE, TRACES_POLICY)),
        Route("/healthz", lambda _: PlainTextResponse("ok\n")),
        Route("/lab", _lab),
        Route("/dashboards/{name}", _dashboard),
        Route("/api/{path:path}", _forward),
    ]
    # Loopback names only, wherever it listens: remote users come through an SSH tunnel.
    guard = Middleware(RefuseForeignPages, allowed=AllowedHosts())
    return Starlette(routes=routes, middleware=[guard])


def describe(settings: Settings) -> dict[str, Any]:
    """Return what the page shows of the lab: place, components, dashboards, addresses of stores."""
    is_cluster = settings.place == "cluster"
    interval = CLUSTER_SCRAPE_INTERVAL if is_cluster else prometheus_config.SCRAPE_INTERVAL
    answer: dict[str, Any] = {
        "place": settings.place,
        "recording": _recording(settings) if settings.place == "recorded" else None,
        "scrape_interval_s": int(interval.removesuffix("s")),
        "components": [],
        "dashboards": [{"name": d.name, "title": d.title} for d in DASHBOARDS.values()],
    }
    try:
        answer["components"] = _pods(settings) if is_cluster else _parts(settings)
    except LabError as e:
        answer["error"] = str(e)
    return answer


def _recording(settings: Settings) -> dict[str, Any]:
    about = json.loads((settings.recording_dir / "recording.json").read_text())
    return {name: about[name] for name in ("name", "recorded_at", "window")}


def _parts(settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "state": part.state,
            "since": None if part.uptime_s is None else time.time() - part.uptime_s,
            "address": f"http://{HOST}:{part.port}" if part.port else "",
            "rss_bytes": part.rss_bytes,
            "what": part.what,
            "note": part.error or ("" if part.ready else part.waits_for),
        }
        for part in stack.status(settings)
    ]


def _pods(settings: Settings) -> list[dict[str, Any]]:
    from lab.places import status_frame  # with pandas, which a local lab's page does not need

    table = json.loads(status_frame(settings).to_json(orient="records"))
    return [
        {
            "name": pod["part"],
            "state": pod["state"],
            "since": None,
            "address": f"http://{HOST}:{pod['port']}" if pod["port"] else "",
            "rss_bytes": (pod["rss_mib"] or 0) * 2**20,
            "what": pod["what"],
            "note": f"{pod['restarts']} restarts" if pod["restarts"] else "",
        }
        for pod in table
    ]


def store_url(settings: Settings, name: str) -> str:
    """Return the address of a store, also of one that the user runs.

    Raises NotUp where none is known, StoreError for one that needs a login.
    """
    url = getattr(settings, f"{name}_url")
    if not url and (current := state.read(settings.state_dir.resolve())):
        url = current.endpoints.get(name)
    url = url or settings.endpoint(name)
    if hide_password(url) != url:
        raise StoreError(
            "the live view does not query a store with a login",
            got=hide_password(url),
            fix="open the store's own page, or Grafana: the live view would show your data to all "
            "users of this machine",
        )
    return str(url)


_cached_client = functools.lru_cache(maxsize=8)(HttpClient)
_cached_json = functools.cache(grafana_json)

# The functions below are synchronous: Starlette runs each in a thread.


def _forward(request: Request) -> Response:
    raw_path = request.scope["raw_path"].decode("ascii", "replace")
    name = next((n for n, paths in FORWARDED.items() if re.fullmatch(paths, raw_path)), None)
    if name is None:
        return PlainTextResponse("the live view does not pass this path on\n", 404)

    query = request.url.query
    try:
        settings = load_settings()
        url = store_url(settings, name)
        client = _cached_client(name.capitalize(), url, settings.timeout_s)
        reply = client.request(f"{raw_path}?{query}" if query else raw_path)
    except LabError as e:
        return PlainTextResponse(str(e), 503 if isinstance(e, NotUp) else 502)
    # Never HTML: a page of another server must not run on this origin.
    media_type = "application/json" if "json" in reply.content_type else "text/plain"
    return Response(reply.content, reply.status, media_type=media_type)


def _lab(_: Request) -> Response:
    try:
        return JSONResponse(describe(load_settings()))
    except (LabError, OSError, ValueError) as e:
        return PlainTextResponse(str(e), 503)


def _dashboard(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in DASHBOARDS:
        return PlainTextResponse(f"there is no dashboard {name[:100]!r}\n", 404)
    content = _cached_json(name, local=load_settings().place != "cluster")
    return Response(content, media_type="application/json")


def _asset(request: Request) -> Response:
    file = PAGE / f"{request.path_params['name']}.{request.path_params['kind']}"
    if file.suffix not in (".js", ".css") or file.parent != PAGE or not file.is_file():
        return PlainTextResponse("not found\n", 404)
    return _file(file, POLICY)


def _file(path: Path, policy: str) -> Response:
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return FileResponse(path, headers=headers)
