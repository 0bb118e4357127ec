"""Set-up chooses the build of vLLM and torch and translates pip's settings for uv."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import SetupError
from scripts.setup import environments, pip_config, tools


def test_the_build_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU decides unless the user chooses a build, and an unknown build is refused."""
    monkeypatch.setattr(environments.platform, "system", lambda: "Linux")
    assert environments.vllm_build_for(True, "") == "cuda"
    assert environments.vllm_build_for(False, "") == "cpu"
    assert environments.vllm_build_for(True, "cpu") == "cpu"
    with pytest.raises(SetupError, match="cpu, cuda or source"):
        environments.vllm_build_for(False, "gpu")
    monkeypatch.setattr(environments.platform, "system", lambda: "Darwin")
    assert environments.vllm_build_for(False, "") == "source"


def test_a_torch_wheel_in_a_folder(tmp_path: Path) -> None:
    """The CPU build of the pinned release for this machine is chosen, never the CUDA build."""
    for name in (
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-2.13.0-cp312-cp312-manylinux_2_28_aarch64.whl",
        "torch-2.12.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torchvision-0.28.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
    ):
        (tmp_path / name).write_text("")
    assert [w.python for w in environments.wheels_in([tmp_path], "x86_64")] == ["3.11"]
    assert [w.python for w in environments.wheels_in([tmp_path], "aarch64")] == ["3.12"]


@pytest.mark.parametrize("name, expected", [("vllm", "3.11"), ("bench", "3.11"), ("lab", "3.12")])
def test_a_torch_wheel_decides_on_the_python(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM and guidellm need torch: their environments get the Python of a wheel that is here."""
    monkeypatch.setattr(environments.interpreters, "installed", lambda *of: [Path(of[1])])
    monkeypatch.setattr(environments.interpreters, "works", lambda *_: True)
    monkeypatch.setattr(
        environments.interpreters, "find", lambda _uv, pythons, *_: Path(pythons[0])
    )
    wheel = environments.Wheel(Path("torch.whl"), "3.11")
    builder = environments.Builder("uv", {}, "cpu", [wheel])
    base = environments.base_for(builder, name)
    assert base.python == Path(expected)
    assert base.wheel == (wheel if expected == "3.11" else None)


def test_find_links_are_passed_to_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's find-links are written in uv's syntax, unless uv has its own setting."""
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} file://{tmp_path}/more")
    pip = pip_config.pip_settings()
    assert pip["find-links"] == f"{tmp_path} file://{tmp_path}/more"
    assert pip_config.uv_variables(pip, {})["UV_FIND_LINKS"] == f"{tmp_path},file://{tmp_path}/more"
    assert "UV_FIND_LINKS" not in pip_config.uv_variables(pip, {"UV_FIND_LINKS": "/mine"})


def test_pip_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A company's mirror in pip.conf is used by uv, too."""
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\nfind-links =\n  /a\n  /b\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    pip = pip_config.pip_settings()
    assert pip["find-links"].split()[-2:] == ["/a", "/b"]
    assert pip_config.uv_variables(pip, {})["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"


def test_local_folders_in_find_links(tmp_path: Path) -> None:
    """Paths and file: addresses with escapes are returned, other addresses are left to uv."""
    (tmp_path / "a b").mkdir()
    given = f"{tmp_path},file://{tmp_path}/a%20b,https://wheels.example/"
    assert pip_config.local_folders(given) == [tmp_path, tmp_path / "a b"]


def test_cpu_flags(tmp_path: Path) -> None:
    """The flags that decide vLLM's number format are read on Intel and Arm."""
    (tmp_path / "x86").write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f amx_bf16\n")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert tools.cpu_flags(tmp_path / "x86") == ["avx2", "avx512f", "amx_bf16"]
    assert tools.cpu_flags(tmp_path / "arm") == ["asimd", "bf16"]
    assert tools.cpu_flags(tmp_path / "absent") == []
