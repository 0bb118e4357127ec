"""Is a model folder whole? Asked before anything is started: vLLM would say it after half a minute, in a traceback."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from lab.errors import ModelError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit


def check_model_folder(folder: Path, *, fix: str) -> dict:
    """The model's config.json. `do` is the advice that a ModelError ends with.

    Raises ModelError saying what is missing or corrupt: the folder, config.json, the tokenizer, the weights.
    Reads headers only, so that it costs milliseconds for a model of any size.
    """
    if not folder.is_dir():
        raise ModelError(f"the model folder {folder} does not exist", fix=fix)
    config = _json(folder / "config.json", fix)
    if not config.get("architectures"):
        raise ModelError(
            f"{folder / 'config.json'} names no architecture",
            got=f"keys {sorted(config)[:8]}",
            fix=fix,
        )
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{folder} has no tokenizer", got=_listing(folder), fix=fix)
    if (folder / "tokenizer.json").is_file():
        _json(folder / "tokenizer.json", fix)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not any(folder.glob("*.bin")):
        raise ModelError(f"{folder} has no weights (*.safetensors)", got=_listing(folder), fix=fix)
    for path in weights:
        _check_safetensors(path, fix)
    return config


def joins_text_parts(folder: Path) -> bool:
    """Whether the folder's chat template takes a message in parts and joins them itself, as the lab model's does.

    vLLM's own test for that looks for a loop over the parts, finds none here, and would put a line break between them.
    """
    path = folder / "chat_template.jinja"
    return path.is_file() and "map(attribute='text')" in path.read_text(errors="replace")


def _json(path: Path, fix: str) -> dict:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", got=_listing(path.parent), fix=fix) from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read as JSON", got=str(e), fix=fix) from e
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not a JSON object", got=type(found).__name__, fix=fix)
    return found


def _check_safetensors(path: Path, fix: str) -> None:
    """Header: 8 bytes length, then JSON {tensor: {data_offsets: [from, to]}}; the file must hold all of it."""
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ModelError(
                f"{path} is not a safetensors file",
                got=f"{size} bytes, header length {length}",
                fix=fix,
            )
        try:
            header = json.loads(f.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError) as e:
            raise ModelError(f"the header of {path} is corrupt", got=repr(e), fix=fix) from e
    if not ends or size != 8 + length + max(ends):
        got = f"{size} bytes where the header tells of {8 + length + max(ends, default=0)}"
        raise ModelError(f"{path} is incomplete", got=got, fix=fix)


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return f"files {', '.join(names[:12])}" if names else "an empty folder"
