"""A tool is defined once: what the catalogue, the database and the scenarios have reaches
everything else.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from lab.settings import REPO
from lab.tools.app import tool_definitions
from lab.world import MCP_TOOLS, facts
from lab.world.phrasings import PHRASINGS
from lab.world.scenarios import SINGLES
from scripts.train_lab_model.recipe import DRILL, Recipe, load_curriculum


def test_every_tool_is_complete() -> None:
    """Each MCP tool has an implementation, phrasings in both splits, a question, and is served."""
    names = {tool.name for tool in MCP_TOOLS}
    assert facts.IMPLEMENTATIONS.keys() == names == {t.name for t in tool_definitions()}
    asked_for = set()
    for intent, build in SINGLES.items():
        (call,) = build(facts.RandomFacts(random.Random(1), "train"), "train").calls
        asked_for.add(call.tool)
        assert all(PHRASINGS[intent])
    assert asked_for == names


# A tool as a contributor would add it, before anything else has read the catalogue.
NEW_TOOL = """
import json, random
from lab.world import catalogue, facts, phrasings

tool = catalogue.Tool("reboot_node", "Reboot a node", (catalogue._p("node", "name of the node"),))
catalogue.TOOLS = (*catalogue.TOOLS, tool)
catalogue.MCP_TOOLS = (*catalogue.MCP_TOOLS, tool)
catalogue.BY_NAME[tool.name] = tool
def implementation(db, node):
    return {"minutes": facts.find_node(db, node).gpus_free}
facts.IMPLEMENTATIONS["reboot_node"] = implementation
phrasings.PHRASINGS["reboot"] = (("(reboot|restart) {node}",), ("start {node} again",))

from lab.world import scenarios
def reboot(w, split):
    node = w.node()
    call = scenarios._call("reboot_node", {"node": node.name}, {"minutes": node.gpus_free})
    text = phrasings.say("reboot", w.rng, split, node=node.name)
    minutes = str(node.gpus_free)
    return scenarios.Turn(text, (call,), f"Node {node.name} is back in {minutes} min.", (minutes,))
scenarios.SINGLES["reboot"] = reboot

from lab.tools import app, calls
from scripts.train_lab_model import corpus, evaluate
rng = random.Random(1)
drawn = [corpus.draw(rng) for _ in range(400)]
live = scenarios.make_scenarios(200, 3, kinds=["single", "not_offered"])
scenario = next(s for s in live if s.intent == "reboot" and s.kind == "single")
function = {"name": "reboot_node", "arguments": json.dumps(scenario.turns[0].calls[0].arguments)}
ran = evaluate._run(facts.memory_database(), scenario.turns[0], 0, function)
print(json.dumps({
    "served": "reboot_node" in [t.name for t in app.tool_definitions()],
    "validated": calls._validate("reboot_node", {}),
    "trained on": any("reboot_node" in json.dumps(c.messages) for c in drawn),
    "offered in training": any("reboot_node" in json.dumps(c.tools) for c in drawn),
    "offered live": "reboot_node" in scenario.offered,
    "not offered": all("reboot_node" not in s.offered for s in live
                       if s.intent == "reboot" and s.kind == "not_offered"),
    "evaluated": ran.output == scenario.turns[0].calls[0].result and not ran.error,
}))
"""


def test_a_new_tool_reaches_everything() -> None:
    """Training data, live scenarios, tool server and evaluation have it from its one definition."""
    done = subprocess.run(
        [sys.executable, "-c", NEW_TOOL], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    reached = json.loads(done.stdout)
    assert reached.pop("validated") == "missing argument node"
    assert set(reached.values()) == {True}, reached


def test_the_curriculum_is_data(tmp_path) -> None:
    """Stages decide the mixture and the learning rate by step; a wrong one is refused by name."""
    from lab.errors import ModelError

    path = tmp_path / "curriculum.toml"
    path.write_text(
        "[[stage]]\nfirst_step = 0\nweights = {single = 1}\n"
        f"[[stage]]\nfirst_step = 80\nlearning_rate_factor = 0.5\nweights = {{{DRILL} = 1}}\n"
    )
    recipe = Recipe(steps=160, warm_up_steps=1, curriculum=load_curriculum(path))
    assert (recipe.stage(79).weights, recipe.stage(80).weights) == ({"single": 1}, {DRILL: 1})
    assert recipe.learning_rate_at(80) == recipe.learning_rate_at(79) / 2 == 0.5 * 5e-3
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    for wrong in ("first_step = 8\nweights = {single = 1}", "first_step = 0\nweights = {sing = 1}"):
        path.write_text(f"[[stage]]\n{wrong}\n")
        with pytest.raises(ModelError, match="not a curriculum"):
            load_curriculum(path)
