"""The machine's peak is measured, or reported as unknown."""

from __future__ import annotations

import json
import math
import struct

import pytest

from lab.errors import SetupError
from lab.settings import load_settings
from lab.stack.state import PartStatus
from lab.stack.toolbox import find_tools
from lab.utilisation import machine
from lab.utilisation.machine import Peak, measured_peak, parameters_of


def test_another_machines_peak_is_not_this_ones() -> None:
    """A recording or a cluster: no number, with the reason, and every share of it is NaN."""
    found = measured_peak(load_settings(place="recorded"))
    assert math.isnan(found.flops_per_s) and "another machine" in str(found)
    assert parameters_of(load_settings(place="recorded")) is None


@pytest.mark.slow
def test_the_peak_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """By vLLM's own torch: more than 1 GFLOP/s and 0.1 GB/s on anything that can run the lab."""
    try:
        find_tools()
    except SetupError as e:
        pytest.skip(str(e))
    monkeypatch.setattr(machine.stack, "status", lambda _: [PartStatus("vllm", "ready")])
    found = measured_peak(load_settings(place="local"))
    assert 1e9 < found.flops_per_s < 1e16 and 1e8 < found.bytes_per_s < 1e14
    assert f"in {found.dtype}" in str(found)


def test_a_measurement_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """The error has the program's message, and how to go on."""
    try:
        tools = find_tools()
    except SetupError as e:
        pytest.skip(str(e))
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no torch here')")
    monkeypatch.setattr(machine, "PROGRAM", broken)
    monkeypatch.setattr(machine.toolbox, "find_tools", lambda: tools)
    monkeypatch.setattr(machine.stack, "status", lambda _: [PartStatus("vllm", "ready")])
    with pytest.raises(SetupError, match="no torch here"):
        measured_peak(load_settings(place="local"))


def test_weights_are_counted_from_the_files_header(tmp_path) -> None:
    """Two tensors of 6 and 10 numbers; metadata is none."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [10], "data_offsets": [12, 32]},
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    assert parameters_of(load_settings(place="local", model=str(folder))) == 16


def test_a_given_peak_is_printed_as_given() -> None:
    """In units that can be read."""
    assert str(Peak(2e12, 50e9, "bfloat16", 4, "cpu")).startswith(
        "measured peak: 2,000 GFLOP/s in bfloat16 with 4"
    )
