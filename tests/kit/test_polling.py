"""The gauges in the text of vLLM's /metrics."""

from __future__ import annotations

import pytest

from lab.errors import NoData
from lab.kit.polling import in_engine

TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="lab-model"} 7.0
vllm:num_requests_waiting{engine="0",model_name="lab-model"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="lab-model",reason="capacity"} 2.0
"""


def test_running_and_waiting_are_added_up_and_the_reasons_are_not_counted_again() -> None:
    """7 running and 2 waiting are 9."""
    assert in_engine(TEXT) == 9
    with pytest.raises(NoData, match="not vLLM's"):
        in_engine("<html>")
