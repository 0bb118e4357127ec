"""The help desk's tools, defined once for server, training data, scenarios and evaluation."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool. `type` is a JSON Schema type: string, number or integer."""

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class Tool:
    """One tool. All parameters are required, in this order.

    `writes`: it changes something. `slow`: it takes seconds. `flaky`: its upstream often times out.
    `mcp`: the MCP server offers it; file_search alone is Llama Stack's own.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    writes: bool = False
    slow: bool = False
    flaky: bool = False
    mcp: bool = True

    def input_schema(self) -> dict[str, Any]:
        """Return the parameters as JSON Schema."""
        properties = {
            p.name: {"type": p.type, "description": p.description} for p in self.parameters
        }
        return {
            "type": "object",
            "properties": properties,
            "required": [p.name for p in self.parameters],
        }

    def openai(self) -> dict[str, Any]:
        """Return the tool as an entry of the `tools` of a chat completion."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.input_schema(),
        }
        return {"type": "function", "function": function}


def _p(name: str, description: str, type_: str = "string") -> Parameter:
    return Parameter(name, type_, description)


TOOLS: tuple[Tool, ...] = (
    Tool("get_node_status", "State of a GPU node", (_p("node", "name of the node"),)),
    Tool(
        "get_job_status",
        "State of a job, and the node that it runs on",
        (_p("job", "id of the job"),),
    ),
    Tool(
        "quote_price",
        "Price of renting GPUs",
        (_p("gpu", "GPU type"), _p("hours", "how long", "integer")),
    ),
    Tool(
        "get_invoice",
        "An invoice that was already issued",
        (_p("invoice", "number of the invoice"),),
    ),
    Tool(
        "convert_currency",
        "Convert an amount from USD to another currency",
        (_p("amount_usd", "amount in USD", "number"), _p("to", "ISO code of the currency")),
    ),
    Tool(
        "get_quota",
        "GPU quota of a team in a region",
        (_p("team", "team"), _p("region", "city of the region")),
    ),
    Tool(
        "open_ticket",
        "Open a support ticket about a node",
        (
            _p("node", "name of the node"),
            _p("severity", "low, medium or high"),
            _p("problem", "what is wrong"),
        ),
        writes=True,
    ),
    Tool(
        "get_delivery_eta",
        "When ordered hardware arrives",
        (_p("order", "order number"),),
        flaky=True,
    ),
    Tool(
        "run_diagnostics",
        "Run the self test of a node",
        (_p("node", "name of the node"),),
        slow=True,
    ),
    Tool(
        "file_search",
        "Search the help desk's documents",
        (_p("query", "what to look for"),),
        mcp=False,
    ),
)
BY_NAME = {tool.name: tool for tool in TOOLS}
MCP_TOOLS = tuple(tool for tool in TOOLS if tool.mcp)
