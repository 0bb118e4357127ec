"""Check a model folder before anything is started: vLLM would fail half a minute later."""

import json
import struct
from pathlib import Path
from typing import Any

from lab.errors import ModelError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit


def check_model_folder(folder: Path, *, fix: str) -> dict[str, Any]:
    """Return the model's config.json. `fix` is the advice of a ModelError.

    Raises ModelError for a missing or corrupt folder, config.json, tokenizer or weights. It reads
    headers only, which takes milliseconds for a model of any size.
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
    """Return whether the chat template joins a message's parts itself, as the lab model's does.

    vLLM's own test looks for a loop over the parts, finds none here, and would put a line break
    between them.
    """
    path = folder / "chat_template.jinja"
    return path.is_file() and "map(attribute='text')" in path.read_text(errors="replace")


def _json(path: Path, fix: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", got=_listing(path.parent), fix=fix) from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read as JSON", got=str(e), fix=fix) from e
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object", got=type(content).__name__, fix=fix)
    return content


def _check_safetensors(path: Path, fix: str) -> None:
    """Compare the header (8 bytes length, JSON {tensor: {data_offsets}}) with the file's size."""
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
        raise ModelError(
            f"{path} is incomplete",
            got=f"{size} bytes where the header expects {8 + length + max(ends, default=0)}",
            fix=fix,
        )


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return f"files {', '.join(names[:12])}" if names else "an empty folder"
