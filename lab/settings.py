"""Where everything is. Nothing else in the lab holds an address.

Sources, first wins: arguments, environment (`LAB_...`), `lab.toml` in the working folder,
`lab.toml` of this checkout, the running stack's own `endpoints.json` (written by `lab up`),
defaults. So a notebook finds the local lab by itself, and one environment variable
(`LAB_PROMETHEUS_URL`, `LAB_TEMPO_URL`) points it at other servers instead.
"""

import base64
import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as MalformedSetting

from lab.environment import bypass_proxies_on_loopback
from lab.errors import NotUp, SettingsError

REPO = Path(__file__).resolve().parent.parent
ENDPOINTS_FILE = "endpoints.json"

TOML_FILE = "lab.toml"
# What lab.toml of a folder that is not this checkout's may not set: it could run code, write files
# elsewhere, or act on a cluster, in the name of a user who only changed to that folder.
TRUSTED_ONLY = (
    *("model", "vllm_args", "data_dir", "state_dir", "place"),
    *("store_token_command", "store_token_file"),
    *("cluster_context", "cluster_overlay"),
)

CREDENTIALS = ("store_headers", "store_token_file", "store_token_command")

# Endpoint name -> what it is, for messages. Each is a settings field `<name>_url`.
ENDPOINTS = {
    "prometheus": "Prometheus",
    "tempo": "Tempo (or the lab's embedded trace store)",
    "otlp": "the OTLP/HTTP receiver for traces",
    "llama_stack": "Llama Stack",
    "vllm": "vLLM serving the chat model",
    "vllm_embed": "vLLM serving the embedding model",
    "mcp": "the MCP tool server",
    "grafana": "Grafana",
    "view": "the live view: components, dashboards, alerts, traces, queries",
}


class Settings(BaseSettings):
    """Every setting of the lab. The `_url` values are base URLs, None when unknown."""

    model_config = SettingsConfigDict(
        env_prefix="LAB_", toml_file=[REPO / TOML_FILE, TOML_FILE], extra="ignore"
    )
    finds_running_stack: ClassVar[bool] = True

    place: Literal["local", "cluster", "recorded"] = "local"
    state_dir: Path = Field(
        REPO / ".lab",
        description="all state of one local lab: ports, logs, databases; recordings and a cluster "
        "have a folder in it",
    )
    data_dir: Path = Field(REPO / "data", description="lab model, world, prices, recorded runs")
    recording: str = Field(
        "notebooks", description="the folder of data/recorded that the place `recorded` replays"
    )

    prometheus_url: str | None = None
    tempo_url: str | None = None
    otlp_url: str | None = None
    llama_stack_url: str | None = None
    vllm_url: str | None = None
    vllm_embed_url: str | None = None
    mcp_url: str | None = None
    grafana_url: str | None = None
    view_url: str | None = None

    model: str = Field(
        "", description="a model name or folder that vLLM should serve; empty: the lab's own model"
    )
    model_name: str = Field(
        "lab-model", description="the name under which the chat model is served"
    )
    vllm_job: str = Field(
        "vllm", description="the scrape job of the chat model's vLLM, for the analysis"
    )
    metric_prefix: str = Field(
        "",
        description="what stands before the names of the engine's metrics where they were renamed "
        "beyond recognition (`acme_llm_`), or ENGINE=PREFIX (`sglang=acme_llm_`); see lab/engines",
    )
    agent_server: Literal["llama-stack", "ogx"] = Field(
        "llama-stack",
        description="the agent server: Llama Stack 0.7, or OGX 1.5 (Llama Stack's newest name), "
        "which `python3 -m scripts.setup ogx` installs",
    )
    ports: dict[str, int] = Field(
        {}, description="ports that `lab up` must take, by name; others are chosen free"
    )
    vllm_args: str = Field(
        "", description="more arguments for the chat model's vLLM, as one would type them"
    )
    store_headers: Annotated[dict[str, str], NoDecode] = Field(
        {},
        repr=False,
        description="sent with every request to Prometheus and Tempo, such as "
        "`Authorization: Bearer ...`; several as lines, or as a JSON object",
    )
    store_token_file: Path | None = Field(
        None,
        description="a file with a bearer token for Prometheus and Tempo, read for every request: "
        "Kubernetes and others replace it while it is used",
    )
    store_token_command: str = Field(
        "",
        repr=False,
        description="prints a bearer token for Prometheus and Tempo, such as `oc whoami -t` or "
        "`gcloud auth print-access-token`; run again after some minutes, and when it is refused",
    )
    timeout_s: float = Field(30.0, gt=0, description="for one request to a store")
    cluster_context: str = Field(
        "", description="the Kubernetes context of the place `cluster`; none is the default"
    )
    cluster_overlay: str = Field(
        "", description="the folder of lab/k8s/overlays that the place `cluster` stands up"
    )

    @field_validator("store_headers", mode="before")
    @classmethod
    def _parse_headers(cls, value: Any) -> Any:
        """Accept `Name: value` lines as well as a JSON object."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            return json.loads(value)

        headers = {}
        for line in filter(str.strip, value.splitlines()):
            name, colon, content = line.partition(":")
            if not colon or not name.strip():
                raise ValueError("write `Name: value`, or a JSON object")
            headers[name.strip()] = content.strip()
        return headers

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Hide the passwords in URLs."""
        for name, value in super().__repr_args__():
            is_url = isinstance(value, str) and name is not None and name.endswith("_url")
            yield name, hide_password(value) if is_url else value

    def source_of(self, name: str) -> str:
        """Return where a setting was read, for messages: a variable, a file, or the running lab."""
        variable = f"LAB_{name.upper()}"
        value = getattr(self, name)
        if variable in os.environ and str(value) == os.environ[variable]:
            return variable
        for path in reversed(settings_files()):
            if _read_toml(path).get(name) == value:
                return str(path)
        endpoint = name.removesuffix("_url")
        if _read_endpoints(self.state_dir).get(endpoint) == value:
            return f"the lab in {self.state_dir}"
        return "the default" if value == type(self).model_fields[name].default else "an argument"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the strongest first."""
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls),
            _RunningStack(settings_cls),
        )

    @property
    def recording_dir(self) -> Path:
        """The folder of the recording that the place `recorded` replays."""
        return self.data_dir / "recorded" / self.recording

    def endpoint(self, name: str) -> str:
        """Return the base URL of one of ENDPOINTS, without a trailing slash.

        Raises SettingsError for an unknown name, NotUp where no address is known.
        """
        if name not in ENDPOINTS:
            raise SettingsError(
                f"there is no endpoint {name!r}", fix=f"use one of {', '.join(ENDPOINTS)}"
            )
        url = getattr(self, f"{name}_url")
        if not url and self.place == "recorded":
            raise NotUp(
                f"no address is known for {ENDPOINTS[name]}",
                got=f"the place is `recorded`: {self.recording} holds telemetry and runs, "
                "nothing that answers requests",
                fix="start the recording's stores with `lab up --place recorded`"
                if name in ("prometheus", "tempo")
                else f"use the place `local`, or set LAB_{name.upper()}_URL",
            )
        if not url:
            raise NotUp(
                f"no address is known for {ENDPOINTS[name]}",
                got=f"no LAB_{name.upper()}_URL, no {name}_url in lab.toml, "
                f"no running lab in {self.state_dir.resolve()}",
                fix=f"start it with `lab up`, or set LAB_{name.upper()}_URL to your own server",
            )
        return url.rstrip("/")


class _RunningStack(PydanticBaseSettingsSource):
    """What the stack that is running from `state_dir` wrote about itself."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        values: dict[str, Any] = {}
        if "state_dir" not in self.current_state:
            # Next to a local lab, not in its place: both may be up at once.
            default = fields["state_dir"].default
            if self.current_state.get("place") == "recorded":
                name = str(self.current_state.get("recording", fields["recording"].default))
                values["state_dir"] = default / "recorded" / name
            elif self.current_state.get("place") == "cluster":
                values["state_dir"] = default / "cluster"

        merged = {"state_dir": fields["state_dir"].default} | self.current_state | values
        if getattr(self.settings_cls, "finds_running_stack", True):
            endpoints = _read_endpoints(Path(merged["state_dir"]))
            values |= {f"{name}_url": url for name, url in endpoints.items() if name in ENDPOINTS}
        return values


class _WithoutRunningStack(Settings):
    """Settings that do not read endpoints.json, which may be damaged."""

    finds_running_stack: ClassVar[bool] = False


def load_settings(*, running_stack: bool = True, **overrides: Any) -> Settings:
    """Return settings from all sources; keyword arguments win.

    With `running_stack=False` the addresses of the running lab are left out, so that a damaged
    endpoints.json does not matter. Every process that talks to the lab's servers begins here, so
    this also keeps its requests to this machine away from proxies (NO_PROXY).
    Raises SettingsError with the offending name and value.
    """
    bypass_proxies_on_loopback()
    _check_foreign_toml()
    cls = Settings if running_stack else _WithoutRunningStack
    try:
        return cls(**overrides)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(str(p) for p in first["loc"])
        secret = name.partition(".")[0] == "store_headers"
        raise _unusable(name, first["msg"], "" if secret else repr(first.get("input"))) from None
    except MalformedSetting as e:  # a dictionary in the environment that is not JSON
        name = next((n for n in Settings.model_fields if f'"{n}"' in str(e)), "")
        got = os.environ.get(f"LAB_{name.upper()}", str(e))
        raise _unusable(name, "it is not JSON", got) from None
    except tomllib.TOMLDecodeError as e:
        files = " or ".join(str(path) for path in settings_files())
        raise SettingsError(f"{files} is not TOML", got=str(e), fix="correct that line") from None


def hide_password(url: str) -> str:
    """Return a URL as it may be printed: without the password in it."""
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError:
        return "(a malformed URL)"
    if secret is None:
        return url
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login.partition(':')[0]}:***@{host}").geturl()


def split_login(url: str) -> tuple[str, str]:
    """Return a URL without its login, and the login as the value of an Authorization header.

    The value is empty where the URL has no login.
    """
    parts = urlsplit(url)
    if parts.username is None:
        return url, ""
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    without = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return without, f"Basic {base64.b64encode(login.encode()).decode()}"


def _unusable(name: str, why: str, got: str) -> SettingsError:
    return SettingsError(
        f"setting {name} is not usable: {why}",
        got=got,
        fix=f"correct LAB_{name.upper()} in the environment or {name} in {TOML_FILE}",
    )


def _check_foreign_toml() -> None:
    """Check lab.toml of a working folder outside this checkout, which may be someone else's.

    Raises SettingsError if it sets one of TRUSTED_ONLY, or an address to which the credentials of
    the environment or of this checkout would be sent.
    """
    path = Path(TOML_FILE).absolute()
    if path.parent == REPO or REPO in path.parents or not path.is_file():
        return

    content = _read_toml(path)
    refused = [name for name in TRUSTED_ONLY if name in content]
    if refused:
        raise SettingsError(
            f"{path} sets {', '.join(refused)}, which only the checkout's own file may",
            fix=f"set it in the environment (LAB_{refused[0].upper()}) or in {REPO / TOML_FILE}",
        )
    _check_foreign_stores(path, content)


def _check_foreign_stores(path: Path, content: dict[str, Any]) -> None:
    """Raise SettingsError if credentials would be sent to an address of a foreign lab.toml."""
    stores = [n for n in ("prometheus_url", "tempo_url") if n in content and not _in_environ(n)]
    own = _read_toml(REPO / TOML_FILE)
    has_credentials = any(_in_environ(name) or name in own for name in CREDENTIALS)
    if stores and has_credentials and "store_headers" not in content:
        raise SettingsError(
            f"your credentials would be sent to the address that {path} sets",
            got=f"{stores[0]} = {hide_password(str(content[stores[0]]))}",
            fix=f"if you trust it, set LAB_{stores[0].upper()} to it; otherwise remove that file",
        )


def _in_environ(name: str) -> bool:
    return f"LAB_{name.upper()}" in os.environ


def settings_files() -> list[Path]:
    """Return the lab.toml files that are read, the weaker first."""
    files = dict.fromkeys((REPO / TOML_FILE, Path(TOML_FILE).absolute()))
    return [path for path in files if path.is_file()]


def _read_toml(path: Path) -> dict[str, Any]:
    """Return a file's content; empty if it cannot be read, which loading the settings reports."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _read_endpoints(state_dir: Path) -> dict[str, str]:
    """Return what the running lab wrote. Raises SettingsError if it cannot be read."""
    path = state_dir / ENDPOINTS_FILE
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as e:
        raise SettingsError(
            f"{path} cannot be read",
            got=str(e),
            fix="run `lab down` and `lab up` to write it anew",
        ) from e
