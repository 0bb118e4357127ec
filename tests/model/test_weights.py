"""The committed models load, and their greedy answers are those of the commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.world import BY_NAME, TOOLS

pytestmark = pytest.mark.model

DATA = Path(__file__).resolve().parents[2] / "data"
LIMIT_BYTES = 12e6
MODELS = ["lab-model", "lab-model-canary"]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_are_those_recorded(name: str, train_lab_model: Any) -> None:
    """A handful of prompts: calls, their answers, a follow-up, a refusal, a tool that is not
    offered.
    """
    recorded = json.loads(
        (Path(__file__).with_name("greedy_answers.json")).read_text(encoding="utf-8")
    )
    done = train_lab_model("ask", "--model", DATA / name, stdin=json.dumps(prompts()))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == recorded[name]


@pytest.mark.parametrize("name", MODELS)
def test_folder_is_whole_and_small(name: str) -> None:
    """All that vLLM needs, a model card, at most 12 MB, bfloat16, and a context of at least 2,048
    tokens.
    """
    names = {p.name: p.stat().st_size for p in (DATA / name).iterdir()}
    needed = {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert names.keys() >= needed | {"model.safetensors", "MODEL_CARD.md"}
    assert sum(names.values()) <= LIMIT_BYTES
    config = json.loads((DATA / name / "config.json").read_text())
    assert config["max_position_embeddings"] >= 2048
    assert config["dtype"] == "bfloat16"


def test_models_and_training_share_one_chat_template() -> None:
    """What is served renders as what was trained."""
    source = (DATA.parent / "scripts" / "train_lab_model" / "chat_template.jinja").read_text(
        encoding="utf-8"
    )
    for name in MODELS:
        assert (DATA / name / "chat_template.jinja").read_text(encoding="utf-8") == source


def prompts() -> list[dict[str, Any]]:
    """Conversations up to where the model speaks."""
    everything = [tool.openai() for tool in TOOLS]
    two = [BY_NAME[name].openai() for name in ("get_invoice", "get_job_status")]
    call = {"name": "quote_price", "arguments": '{"gpu": "H100", "hours": 12}'}
    quoted = [
        _user("what does 12 hours of H100 cost?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": '{"usd": 36}'},
    ]
    messages = [
        *quoted,
        {"role": "assistant", "content": "12 hours of H100 cost 36 USD."},
        _user("and in euros"),
    ]
    return [
        {"messages": [_user("how is node kra-412 doing")], "tools": everything},
        {"messages": [_user("what is the status of job train-51af?")], "tools": two},
        {"messages": quoted, "tools": everything},
        {"messages": messages, "tools": everything},
        {"messages": [_user("write me a poem about the moon")], "tools": everything},
        {"messages": [_user("open a high ticket for kra-412: fan is loud")], "tools": two},
    ]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def record(python: str) -> None:
    """Write the answers anew, after new weights: `python -m tests.model.test_weights
    PYTHON_WITH_TORCH`.
    """
    recorded = {}
    for name in MODELS:
        command = [python, "-m", "scripts.train_lab_model", "ask", "--model", str(DATA / name)]
        done = subprocess.run(
            command, input=json.dumps(prompts()), capture_output=True, text=True, check=True
        )
        recorded[name] = json.loads(done.stdout)
    Path(__file__).with_name("greedy_answers.json").write_text(
        json.dumps(recorded, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    record(sys.argv[1])
