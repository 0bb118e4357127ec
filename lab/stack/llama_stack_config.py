"""The agent server's configuration: agent loop, vLLM servers, MCP tools, documents in FAISS.

Llama Stack 0.7.3 and OGX 1.5 read the same file, except that OGX needs a provider for the text of
uploaded files, which Llama Stack has built in.

FAISS, not sqlite-vec: the sqlite3 of many interpreters (pyenv's, macOS's) loads no extensions.
"""

from pathlib import Path
from typing import Any

import yaml

from lab.settings import Settings
from lab.stack.ports import HOST
from lab.stack.vllm_args import EMBED_DIMENSION, EMBED_MODEL

CHAT_PROVIDER = "vllm"
EMBED_PROVIDER = "vllm-embed"
CANARY_PROVIDER = "vllm-canary"
MAX_ANSWER_TOKENS = 256
# In tiktoken's tokens: each of the help desk's documents is one chunk.
CHUNK_TOKENS = 200
CHUNK_OVERLAP_TOKENS = 20
KEY_VALUES = {"backend": "kv_default"}
TABLES = {"backend": "sql_default"}
WRITERS = {"max_write_queue_size": 10000, "num_writers": 1}
# Short templates for search results; the defaults are too long for a small model. Each becomes one
# part of the tool's message, and vLLM joins the parts with line ends: the result is
# `lab.world.documents.search_result`, on which the lab model was trained. With annotations off,
# Llama Stack would use its own long chunk template, so they are on; the lab model's chat template
# drops `<|...|>`.
FILE_SEARCH = {
    "default_provider_id": "faiss",
    "default_embedding_model": {
        "provider_id": EMBED_PROVIDER,
        "model_id": EMBED_MODEL,
        "embedding_dimensions": EMBED_DIMENSION,
    },
    "file_search_params": {
        "header_template": "file_search: {num_chunks}",
        "footer_template": "",
    },
    "context_prompt_params": {
        "chunk_annotation_template": "[{index}] {chunk.content}\n",
        "context_template": "{query}\n",
    },
    "annotation_prompt_params": {
        "enable_annotations": True,
        # It may not be empty; the context template leaves it out.
        "annotation_instruction_template": "-",
        "chunk_annotation_template": "[{index}] {chunk_text} <|{file_id}|>",
    },
    "file_ingestion_params": {
        "default_chunk_size_tokens": CHUNK_TOKENS,
        "default_chunk_overlap_tokens": CHUNK_OVERLAP_TOKENS,
    },
}


def model_id(served_name: str) -> str:
    """Return the name under which Llama Stack knows the chat model."""
    return f"{CHAT_PROVIDER}/{served_name}"


def render(
    settings: Settings, ports: dict[str, int], url: dict[str, str], state: Path, canary: str = ""
) -> str:
    """Return config.yaml as text.

    The models are registered in it: discovered from vLLM, they would be available minutes later.
    """
    whole = document(settings.model_name, ports, url, state / "llama-stack", canary)
    if settings.agent_server == "ogx":
        whole["apis"].append("file_processors")
        whole["providers"]["file_processors"] = [_provider("text", "inline::pypdf")]
    return yaml.safe_dump(whole, sort_keys=False)


def document(
    served_name: str, ports: dict[str, int], url: dict[str, str], folder: Path, canary: str = ""
) -> dict[str, Any]:
    """Return the configuration as a dictionary.

    `folder` holds its databases. `canary` is the name of a second chat model, served at
    url["vllm_canary"] whenever that part runs.
    """
    models = [
        _model(served_name, CHAT_PROVIDER, "llm"),
        _model(EMBED_MODEL, EMBED_PROVIDER, "embedding", embedding_dimension=EMBED_DIMENSION),
    ]
    servers = {CHAT_PROVIDER: url["vllm"], EMBED_PROVIDER: url["vllm_embed"]}
    if canary:
        models.append(_model(canary, CANARY_PROVIDER, "llm"))
        servers[CANARY_PROVIDER] = url["vllm_canary"]
    return {
        "version": 2,
        "distro_name": "lab",
        "apis": ["inference", "responses", "tool_runtime", "vector_io", "files"],
        "providers": {
            "inference": [_vllm(name, url) for name, url in servers.items()],
            **_other_providers(folder),
        },
        "storage": _storage(folder),
        "registered_resources": {"models": models, "shields": [], "vector_stores": []},
        "vector_stores": FILE_SEARCH,
        "server": {"host": HOST, "port": ports["llama_stack"]},
    }


def _other_providers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the providers of everything but inference."""
    return {
        "vector_io": [
            _provider(
                "faiss",
                "inline::faiss",
                persistence={"namespace": "vector_io::faiss", **KEY_VALUES},
            )
        ],
        "files": [
            _provider(
                "builtin-files",
                "inline::localfs",
                storage_dir=str(folder / "files"),
                metadata_store={"table_name": "files_metadata", **TABLES},
            )
        ],
        "responses": [
            _provider(
                "builtin",
                "inline::builtin",
                persistence={
                    "agent_state": {"namespace": "agents", **KEY_VALUES},
                    "responses": {"table_name": "responses", **TABLES, **WRITERS},
                },
            )
        ],
        "tool_runtime": [_provider("model-context-protocol", "remote::model-context-protocol")],
    }


def _storage(folder: Path) -> dict[str, Any]:
    """Return the databases and what is stored in which."""
    return {
        "backends": {
            "kv_default": {"type": "kv_sqlite", "db_path": str(folder / "kvstore.db")},
            "sql_default": {"type": "sql_sqlite", "db_path": str(folder / "sql_store.db")},
        },
        "stores": {
            "metadata": {"namespace": "registry", **KEY_VALUES},
            "inference": {"table_name": "inference_store", **TABLES, **WRITERS},
            "conversations": {"table_name": "openai_conversations", **TABLES},
            "prompts": {"namespace": "prompts", **KEY_VALUES},
            "connectors": {"namespace": "connectors", **KEY_VALUES},
        },
    }


def _provider(provider_id: str, provider_type: str, **config: Any) -> dict[str, Any]:
    return {"provider_id": provider_id, "provider_type": provider_type, "config": config}


def _vllm(provider_id: str, url: str) -> dict[str, Any]:
    # With any token set, Llama Stack registers the models without querying vLLM for them, so
    # neither waits for the other.
    return _provider(
        provider_id,
        "remote::vllm",
        base_url=f"{url}/v1",
        max_tokens=MAX_ANSWER_TOKENS,
        api_token="not-needed",
        refresh_models=False,
    )


def _model(name: str, provider: str, kind: str, **metadata: Any) -> dict[str, Any]:
    return {
        "model_id": name,
        "provider_id": provider,
        "provider_model_id": name,
        "model_type": kind,
        "metadata": metadata,
    }
