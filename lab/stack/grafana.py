"""Grafana on demand (`lab up --with grafana`), with the data sources and dashboards of the lab.

It comes from the machine: no package registry that set-up uses has it. The provisioning is that of
the cluster (lab/k8s/base/grafana) with other addresses.
"""

from pathlib import Path

import yaml

from lab.errors import SetupError
from lab.settings import REPO
from lab.stack.parts import Part, Probe
from lab.stack.ports import HOST
from lab.stack.prometheus_config import SCRAPE_INTERVAL
from lab.stack.toolbox import find_tools

PROVISIONING = REPO / "lab/k8s/base/grafana/provisioning"
DASHBOARDS = REPO / "lab/k8s/dashboards"


def check_installed() -> None:
    """Raise SetupError where this machine has no Grafana."""
    if not find_tools(needs=()).grafana:
        raise SetupError(
            "Grafana is not installed on this machine",
            got="no grafana-server on PATH",
            fix="install it from Grafana's packages, then run `lab down` and the command again; "
            "the live view (`lab view`) shows the same dashboards without it",
        )


def part(program: str, port: int, state: Path) -> Part:
    """Return Grafana, which every user of this machine can open without a login."""
    folder = state / "run" / "grafana"
    home = home_of(Path(program))
    url = f"http://{HOST}:{port}"
    options = {
        "SERVER_HTTP_ADDR": HOST,
        "SERVER_HTTP_PORT": str(port),
        # Other names are redirected, so that no web page can rebind its own name to this address.
        "SERVER_DOMAIN": HOST,
        "SERVER_ENFORCE_DOMAIN": "true",
        "PATHS_DATA": str(state / "grafana"),
        "PATHS_LOGS": str(state / "grafana"),
        "PATHS_PLUGINS": str(state / "grafana" / "plugins"),
        "PATHS_PROVISIONING": str(folder),
        "LOG_MODE": "console",
        "LOG_CONSOLE_FORMAT": "json",
        "AUTH_ANONYMOUS_ENABLED": "true",
        "AUTH_ANONYMOUS_ORG_ROLE": "Editor",  # Explore is not for viewers
        "AUTH_DISABLE_LOGIN_FORM": "true",
        "SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
        "ANALYTICS_REPORTING_ENABLED": "false",
        "ANALYTICS_CHECK_FOR_UPDATES": "false",
        "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "PLUGINS_PREINSTALL_DISABLED": "true",
        "NEWS_NEWS_FEED_ENABLED": "false",
        "DASHBOARDS_MIN_REFRESH_INTERVAL": "5s",
        "DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(DASHBOARDS / "overview.json"),
    }
    return Part(
        name="grafana",
        what="Grafana with the lab's dashboards, on demand",
        argv=(program, *(["--homepath", str(home)] if home else [])),
        env={f"GF_{name}": value for name, value in options.items()},
        ports={"grafana": port},
        ready=Probe("http", {"url": f"{url}/api/health"}),
        alive=f"{url}/api/health",
        essential=False,
        on_demand=True,
    )


def home_of(program: Path) -> Path | None:
    """Return Grafana's folder with its web pages, None where it is not at one of the usual places.

    The usual places are those of the archive, of the packages for Linux, and of Homebrew.
    """
    root = program.resolve().parent.parent
    homes = (root, root / "share/grafana", Path("/usr/share/grafana"))
    return next((home for home in homes if (home / "conf/defaults.ini").is_file()), None)


def files(state: Path, url: dict[str, str]) -> dict[Path, str]:
    """Return {path: text}: the data sources at these endpoints, and the dashboards' folder."""
    sources = yaml.safe_load((PROVISIONING / "datasources.yaml").read_text(encoding="utf-8"))
    for source in sources["datasources"]:
        source["url"] = url[source["uid"]]  # named after the endpoints
        if source["uid"] == "prometheus":
            source["jsonData"]["timeInterval"] = SCRAPE_INTERVAL
    dashboards = yaml.safe_load((PROVISIONING / "dashboards.yaml").read_text(encoding="utf-8"))
    dashboards["providers"][0]["options"]["path"] = str(DASHBOARDS)

    folder = state / "run" / "grafana"
    return {
        folder / "datasources" / "lab.yaml": yaml.safe_dump(sources, sort_keys=False),
        folder / "dashboards" / "lab.yaml": yaml.safe_dump(dashboards, sort_keys=False),
    }
