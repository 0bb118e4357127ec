"""The configurations written for Prometheus and Llama Stack are valid and complete."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from llama_stack.core.storage.datatypes import SqliteSqlStoreConfig
from llama_stack.core.storage.sqlstore.sqlalchemy_sqlstore import SqlAlchemySqlStoreImpl
from llama_stack_api.internal.sqlstore import ColumnType

from lab.dashboards import rules
from lab.durations import parse_duration_s
from lab.schema import JOBS
from lab.settings import Settings
from lab.stack import llama_stack_config, llama_stack_server, prometheus_config
from lab.stack.ports import PREFERRED
from lab.stack.toolbox import find_tools

URLS = {n: f"http://127.0.0.1:{p}" for n, p in PREFERRED.items()}


def test_the_scrape_jobs_are_those_of_the_schema():
    """A query written for the lab finds its job on a cluster too."""
    assert set(prometheus_config.targets(PREFERRED, URLS, {})) == set(JOBS)


def test_an_external_server_is_scraped_but_not_waited_for():
    """Its metrics may be unreachable for reasons that the lab cannot know."""
    external = {"vllm": "http://gpu.example:8000"}
    assert (
        prometheus_config.targets(PREFERRED, URLS | external, external)["vllm"]
        == "gpu.example:8000"
    )
    assert "vllm" not in prometheus_config.essential_jobs(external)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not on PATH")
def test_prometheus_accepts_its_configuration(tmp_path: Path):
    """promtool reports no problem."""
    path = tmp_path / "prometheus.yml"
    path.write_text(prometheus_config.render(prometheus_config.targets(PREFERRED, URLS, {})))
    done = subprocess.run(
        ["promtool", "check", "config", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_rules_are_those_of_the_dashboards_for_one_machine(tmp_path: Path):
    """All of lab/dashboards/rules.py is used, except the alert on a collector, for clusters."""
    local = yaml.safe_load(prometheus_config.rules())["groups"]
    names = {r.get("alert") or r["record"] for group in local for r in group["rules"]}
    everywhere = [*rules.alerts(), *rules.recording_rules()]
    assert names == {r.get("alert") or r["record"] for r in everywhere} - {"CollectorLosesSpans"}
    assert not any("otelcol" in r["expr"] for g in local for r in g["rules"] if "alert" in r)

    config = yaml.safe_load(prometheus_config.render({}, rules_file=tmp_path / "rules.yml"))
    assert config["rule_files"] == [str(tmp_path / "rules.yml")]


def test_the_rules_have_the_same_expressions_with_scaled_windows():
    """Only windows, offsets and waits differ: an hour is two minutes, the least is 5 scrapes."""
    local = yaml.safe_load(prometheus_config.rules())["groups"]
    here = {r.get("alert") or r["record"]: r for group in local for r in group["rules"]}
    pattern = r"\d+[smhd](?=\])|(?<=offset )\d+[smhd]"
    for rule in (*rules.alerts(), *rules.recording_rules()):
        name = rule.get("alert") or rule["record"]
        if name in prometheus_config.ONLY_ON_A_CLUSTER:
            continue
        assert re.sub(pattern, "W", here[name]["expr"]) == re.sub(pattern, "W", rule["expr"])
        windows = zip(
            re.findall(pattern, here[name]["expr"]), re.findall(pattern, rule["expr"]), strict=True
        )
        for scaled, original in windows:
            expected_s = max(parse_duration_s(original) / prometheus_config.ALERT_SCALE, 10.0)
            assert parse_duration_s(scaled) == expected_s, (name, scaled, original)
        if "alert" in rule:
            scale = parse_duration_s(rule["for"]) / prometheus_config.ALERT_SCALE
            assert parse_duration_s(here[name]["for"]) == scale
            assert here[name]["annotations"]["scale"] == "an hour of this rule is 120 s here"


def test_promtool_accepts_the_scaled_rules(tmp_path: Path):
    """Prometheus loads the rule file."""
    promtool = find_tools(needs=("promtool",)).promtool
    path = tmp_path / "rules.yml"
    path.write_text(prometheus_config.rules())
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_llama_stack_accepts_its_configuration(tmp_path: Path):
    """Llama Stack's types accept every key, and none is ignored."""
    datatypes = pytest.importorskip("llama_stack.core.datatypes")
    config = datatypes.StackConfig(
        **yaml.safe_load(llama_stack_config.render(Settings(), PREFERRED, URLS, tmp_path))
    )
    assert config.server.host == "127.0.0.1"
    assert {m.model_id for m in config.registered_resources.models} == {
        "lab-model",
        "all-minilm-l6-v2",
    }
    assert [p.provider_type for p in config.providers["vector_io"]] == ["inline::faiss"]
    assert config.vector_stores.default_embedding_model.embedding_dimensions == 384


def test_ogx_gets_a_provider_for_the_text_of_files(tmp_path: Path):
    """OGX 1.5 indexes no document without one, while Llama Stack 0.7 refuses this API's name."""
    configs = {
        server: yaml.safe_load(
            llama_stack_config.render(Settings(agent_server=server), PREFERRED, URLS, tmp_path)
        )
        for server in ("llama-stack", "ogx")
    }
    extra = configs["ogx"]["providers"].pop("file_processors")
    assert [provider["provider_type"] for provider in extra] == ["inline::pypdf"]
    configs["ogx"]["apis"].remove("file_processors")
    assert configs["ogx"] == configs["llama-stack"]


def test_markdown_is_text_without_a_system_list_of_types(monkeypatch):
    """Llama Stack would index no document in slim images, which have no /etc/mime.types."""
    monkeypatch.setattr(mimetypes, "_db", None)
    mimetypes.init(files=[])
    try:
        llama_stack_server.register_document_types()
        assert mimetypes.guess_type("faq.md")[0] == "text/markdown"
    finally:
        mimetypes.init()


def test_a_writer_of_llama_stack_does_not_wait_for_another(tmp_path: Path):
    """One that has not come to its commit holds no lock; without that, responses were lost."""
    llama_stack_server.commit_each_statement()
    store = SqlAlchemySqlStoreImpl(SqliteSqlStoreConfig(db_path=str(tmp_path / "store.db")))

    async def write_twice() -> list:
        await store.create_table("responses", {"id": ColumnType.STRING})
        await store.insert("responses", {"id": "first"})
        table = store.metadata.tables["responses"]
        assert store.async_session
        async with store.async_session() as session:
            await session.execute(table.insert(), {"id": "second"})
            await store.insert("responses", {"id": "third"})  # else: "database is locked"
            await session.commit()
        rows = await store.fetch_all("responses")
        await store.shutdown()
        return [row["id"] for row in rows.data]

    assert asyncio.run(write_twice()) == ["first", "second", "third"]


def test_llama_stack_stores_its_data_in_the_state_folder(tmp_path: Path):
    """Two labs on one machine share nothing."""
    document = llama_stack_config.document("m", PREFERRED, URLS, tmp_path)
    paths = [b["db_path"] for b in document["storage"]["backends"].values()]
    paths.append(document["providers"]["files"][0]["config"]["storage_dir"])
    assert all(Path(p).is_relative_to(tmp_path) for p in paths)


def test_search_results_have_the_text_that_the_lab_model_was_trained_on():
    """Header, chunks, footer and context, joined by line breaks, equal the world's text.

    Only the citations differ.
    """
    from lab.world.documents import search_result

    templates = llama_stack_config.document("m", PREFERRED, URLS, Path("x"))["vector_stores"]
    passages, query = ["Backups\n\nThe size of backups is 11 meters.", "Tapes."], "size of backups"
    chunk = templates["annotation_prompt_params"]["chunk_annotation_template"]
    parts = [
        templates["file_search_params"]["header_template"].format(num_chunks=2),
        *(chunk.format(index=i, chunk_text=t, file_id="file-7") for i, t in enumerate(passages, 1)),
        templates["file_search_params"]["footer_template"],
        templates["context_prompt_params"]["context_template"].format(query=query),
    ]
    assert "\n".join(parts).replace("<|file-7|>", "") == search_result(query, passages)
