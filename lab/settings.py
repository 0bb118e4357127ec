"""Where everything is. Nothing else in the lab holds an address.

Sources, first wins: arguments, environment (`LAB_...`), `lab.toml` in the working folder, the running stack's own
`endpoints.json` (written by `lab up`), defaults. So a notebook finds the local lab by itself, and one environment
variable (`LAB_PROMETHEUS_URL`, `LAB_TEMPO_URL`) points it at somebody's own servers instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lab.environment import bypass_proxies_on_loopback
from lab.errors import NotUp, SettingsError

REPO = Path(__file__).resolve().parent.parent
ENDPOINTS_FILE = "endpoints.json"

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
}


class Settings(BaseSettings):
    """Every setting of the lab. All `_url` values are base URLs without a trailing slash, None when unknown."""

    model_config = SettingsConfigDict(
        env_prefix="LAB_", toml_file=[REPO / "lab.toml", "lab.toml"], extra="ignore"
    )

    place: Literal["local", "cluster", "recorded"] = "local"
    state_dir: Path = Field(
        REPO / ".lab",
        description="all state of one local lab: ports, logs, databases; recordings and a cluster have a folder in it",
    )
    data_dir: Path = Field(REPO / "data", description="lab model, world, prices, recorded runs")
    recording: str = Field(
        "first-look", description="the folder of data/recorded that the place `recorded` replays"
    )

    prometheus_url: str | None = None
    tempo_url: str | None = None
    otlp_url: str | None = None
    llama_stack_url: str | None = None
    vllm_url: str | None = None
    vllm_embed_url: str | None = None
    mcp_url: str | None = None
    grafana_url: str | None = None

    model: str = Field(
        "", description="a model name or folder that vLLM should serve; empty: the lab's own model"
    )
    model_name: str = Field(
        "lab-model", description="the name under which the chat model is served"
    )
    vllm_job: str = Field(
        "vllm", description="the scrape job of the chat model's vLLM, for the analysis"
    )
    ports: dict[str, int] = Field(
        {}, description="ports that `lab up` must take, by name; others are chosen free"
    )
    vllm_args: str = Field(
        "", description="more arguments for the chat model's vLLM, as one would type them"
    )
    store_headers: dict[str, str] = Field(
        {},
        repr=False,
        description='sent with every question to Prometheus and Tempo: {"Authorization": "Bearer ..."}',
    )
    timeout_s: float = Field(30.0, gt=0, description="for one question to a store")
    cluster_context: str = Field(
        "", description="the Kubernetes context of the place `cluster`; none is the default"
    )
    cluster_overlay: str = Field(
        "", description="the folder of lab/k8s/overlays that the place `cluster` stands up"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
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
        """The base URL of a part (`prometheus`, `tempo`, `otlp`, `llama_stack`, `vllm`, `vllm_embed`, `mcp`).

        Raises SettingsError for a name that is not a part, NotUp where no address is known.
        """
        if name not in ENDPOINTS:
            raise SettingsError(
                f"there is no endpoint {name!r}", fix=f"use one of {', '.join(ENDPOINTS)}"
            )
        url = getattr(self, f"{name}_url")
        if not url and self.place == "recorded":
            raise NotUp(
                f"no address is known for {ENDPOINTS[name]}",
                got=f"the place is `recorded`: {self.recording} holds telemetry and runs, nothing that answers anew",
                fix=f"use the place `local`, or set LAB_{name.upper()}_URL"
                if name not in ("prometheus", "tempo")
                else "start the recording's stores with `lab up --place recorded`",
            )
        if not url:
            raise NotUp(
                f"no address is known for {ENDPOINTS[name]}",
                got=f"no LAB_{name.upper()}_URL, no {name}_url in lab.toml, "
                f"no running lab in {self.state_dir.resolve()}",
                fix=f"start the lab with `lab up`, or set LAB_{name.upper()}_URL to your own server",
            )
        return url.rstrip("/")


class _RunningStack(PydanticBaseSettingsSource):
    """What the stack that is running from `state_dir` wrote about itself."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        own: dict[str, Any] = {}
        if "state_dir" not in self.current_state:
            # Beside a local lab, not in its place: both may be up at once.
            if self.current_state.get("place") == "recorded":
                name = str(self.current_state.get("recording", fields["recording"].default))
                own["state_dir"] = fields["state_dir"].default / "recorded" / name
            elif self.current_state.get("place") == "cluster":
                own["state_dir"] = fields["state_dir"].default / "cluster"
        state_dir = Path(
            own.get("state_dir") or self.current_state.get("state_dir", fields["state_dir"].default)
        )
        path = state_dir / ENDPOINTS_FILE
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return own
        except (OSError, ValueError) as e:
            raise SettingsError(
                f"{path} cannot be read",
                got=str(e),
                fix="run `lab down` and `lab up` to write it anew",
            ) from e
        return own | {f"{name}_url": url for name, url in found.items() if name in ENDPOINTS}


def load_settings(**overrides: Any) -> Settings:
    """Return settings from all sources; keyword arguments win.

    Every process that talks to the lab's servers begins here, so this also keeps its requests to this machine away
    from proxies (NO_PROXY). Raises SettingsError with the offending name and value.
    """
    bypass_proxies_on_loopback()
    try:
        return Settings(**overrides)
    except ValidationError as e:
        first = e.errors()[0]
        name = ".".join(str(p) for p in first["loc"])
        raise SettingsError(
            f"setting {name} is not usable: {first['msg']}",
            got=repr(first.get("input")),
            fix=f"correct LAB_{name.upper()} in the environment or {name} in lab.toml",
        ) from e
