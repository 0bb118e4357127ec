"""A driven run and everything that is known of it: its requests, its spans, its stores.

run = drive(settings, n_requests=60)    # or the requests of a window of your own telemetry
seen = observe(run, settings)           # an Observation, which the analyses take
seen.requests                           # lab.schema.REQUEST_FRAME, and the verdicts
seen.increase("vllm:prompt_tokens_total")
"""

from lab.observation.judging import judge_requests, parse_tool_calls
from lab.observation.observation import Observation, Sampler, drive, observe, wait_for_spans
from lab.observation.window import WindowRun

__all__ = [
    "Observation",
    "Sampler",
    "WindowRun",
    "drive",
    "judge_requests",
    "observe",
    "parse_tool_calls",
    "wait_for_spans",
]
