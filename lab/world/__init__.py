"""The help desk of a GPU cloud: its tools, its facts, its users' questions, and right answers.

- `catalogue` defines the tools, once.
- `entities` has names and numbers, split into those that the model was trained on and those that it
  never saw.
- `facts` has the SQLite database and what each tool returns, `documents` what file search finds.
- `phrasings` is how people ask, with the same split.
- `scenarios` are questions with their ground truth.
- `judge` compares an agent's calls and answer with it, and looks at how the agent got there.
"""

from lab.world.catalogue import BY_NAME, MCP_TOOLS, TOOLS, Parameter, Tool
from lab.world.facts import ToolFailed, build_database, call_tool, memory_database
from lab.world.judge import ActualCall, Conduct, Verdict, compared, conduct_of, judge
from lab.world.scenarios import KINDS, Call, Scenario, Turn, make_scenarios, scenario_of

__all__ = [
    "BY_NAME",
    "KINDS",
    "MCP_TOOLS",
    "TOOLS",
    "ActualCall",
    "Call",
    "Conduct",
    "Parameter",
    "Scenario",
    "Tool",
    "ToolFailed",
    "Turn",
    "Verdict",
    "build_database",
    "call_tool",
    "compared",
    "conduct_of",
    "judge",
    "make_scenarios",
    "memory_database",
    "scenario_of",
]
