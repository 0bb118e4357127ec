"""`lab compare` for CI: a baseline without texts, an exit status, Markdown and JUnit."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from lab.cli import compare as command
from lab.comparison import Sample, compare
from lab.comparison.report import as_junit, as_markdown, as_text
from lab.comparison.sample import load_sample
from lab.errors import FrameError, LabError
from lab.settings import load_settings

CHAT = "workshop/run-20261126T171041-f4c7"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Baselines: half of a recorded run, its other half, and the latter with slower decoding."""
    folder = tmp_path_factory.mktemp("baselines")
    requests = load_sample(CHAT, load_settings())[0].requests
    odd = requests["session"] % 2 == 1
    slow = requests[odd].copy()
    slow["e2e_s"] += slow["decode_s"]
    slow["decode_s"] *= 2
    tables = {"a": requests[~odd], "b": requests[odd], "slow": slow}
    a, b, c = (Sample(name, t).save(folder / f"{name}.parquet") for name, t in tables.items())
    return a, b, c


def test_the_exit_status_is_the_verdict(files: tuple[Path, ...], tmp_path: Path) -> None:
    a, b, slow = map(str, files)
    markdown = tmp_path / "summary.md"
    junit = tmp_path / "junit.xml"
    outputs = ["--markdown", str(markdown), "--junit", str(junit)]
    assert command.main([a, b]) == 0
    assert command.main([a, slow, *outputs]) == command.STATUS_WORSE
    assert command.main([a, b, "--margin", "0.001", "--strict"]) == command.STATUS_UNCLEAR
    assert command.main([a]) == 2

    assert "b is worse" in markdown.read_text()
    suite = ElementTree.parse(junit).getroot()
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert "decode_s" in failed and "prompt_tokens" not in failed
    assert suite.get("failures") == str(len(failed))


def test_a_baseline_holds_no_text_of_anyone(tmp_path: Path) -> None:
    path = tmp_path / "baseline.parquet"
    assert command.main([CHAT, "--save", str(path)]) == 0
    folder = Path("data/recorded") / CHAT.replace("/", "/runs/")
    records = pd.read_parquet(load_settings().data_dir.parent / folder / "records.parquet")
    content = path.read_bytes() + Sample.load(path).requests.to_csv().encode()
    for column in ("prompt", "answer", "user_id", "trace_id", "session_id"):
        texts = [text for text in records[column].dropna().unique() if len(text) > 12]
        assert not [text for text in texts if text.encode() in content], column
    assert path.stat().st_size < 64_000


def test_every_report_says_the_same(files: tuple[Path, ...]) -> None:
    result = compare(Sample.load(files[0]), Sample.load(files[2]))
    for text in (as_text(result), as_markdown(result), as_junit(result)):
        assert "the phase responsible is decode" in text
        assert "did not alternate" in text
    assert as_markdown(result).count("\n| ") == len(result.table) + 2


def test_a_list_is_one_side_of_several_runs(files: tuple[Path, ...]) -> None:
    sample, _ = load_sample(f"{files[0]}, {files[1]}", load_settings())
    assert sample.runs == 2


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    settings = load_settings(state_dir=tmp_path)
    for text in ("", "nothing-of-this-name"):
        with pytest.raises(FrameError, match="Fix: name a run"):
            load_sample(text, settings)
    broken = tmp_path / "broken.parquet"
    broken.write_text("not Parquet")
    with pytest.raises(FrameError, match="is not a baseline"):
        load_sample(str(broken), settings)
    with pytest.raises(LabError):
        load_sample("last never", settings)
