"""Check the arguments of every vLLM container with vLLM's own parser and against its model.

The parser runs in the environment that `make setup` builds for vLLM. A GPU build accepts the same
options; values that depend on the machine are checked when vLLM starts (`make smoke-podman`).
"""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from lab.errors import SetupError
from lab.stack.toolbox import find_tools
from tests.k8s.checks.render import REPO, name, pods

LAB_MODEL = REPO / "data" / "lab-model" / "config.json"  # what pods without a GPU serve
CHAT_FOLDER = "/models/chat"
_PROGRAM = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
for line in sys.stdin:
    parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
    parser.error = lambda message: (_ for _ in ()).throw(ValueError(message))
    try:
        parser.parse_args(json.loads(line))
        print("", file=sys.__stdout__, flush=True)
    except (Exception, SystemExit) as e:
        print(str(e).replace("\\n", " ") or "not accepted", file=sys.__stdout__, flush=True)
"""


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return what vLLM's parser rejects, and contexts that are longer than the model's."""
    problems = []
    containers = [
        (name(pod.owner), container)
        for pod in pods(documents)
        for container in pod.spec["containers"]
        if container["name"] == "vllm" and "args" in container
    ]
    lines = [json.dumps([str(argument) for argument in c["args"]]) for _, c in containers]
    distinct = list(dict.fromkeys(lines))
    verdicts = dict(zip(distinct, _parse(distinct), strict=True))
    for (owner, container), line in zip(containers, lines, strict=True):
        found = [verdicts[line]] if verdicts[line] else []
        if "nvidia.com/gpu" not in container.get("resources", {}).get("limits", {}):
            found += _context(container["args"])
        problems += [f"{owner}: {problem}" for problem in found]
    return problems


def _parse(lines: list[str]) -> list[str]:
    """Return vLLM's message per argument list, '' for an accepted one."""
    if not lines:
        return []
    python = find_tools(needs=["python_vllm"]).python_vllm
    done = subprocess.run(
        [python, "-c", _PROGRAM],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    verdicts = done.stdout.split("\n")[: len(lines)]
    if done.returncode or len(verdicts) != len(lines):
        raise SetupError("vLLM's parser did not run", got=done.stderr[-500:], fix="make setup")
    return verdicts


def _context(arguments: list[str]) -> Iterator[str]:
    values = dict(zip(arguments, arguments[1:], strict=False))
    context = values.get("--max-model-len", "")
    if values.get("--model") != CHAT_FOLDER or not context.isdigit():
        return
    longest = json.loads(LAB_MODEL.read_text())["max_position_embeddings"]
    if int(context) > longest:
        yield f"a context of {context} tokens, but the model has {longest}"
