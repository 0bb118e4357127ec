"""What an incident changes in the plan of a running lab, and how its files are kept unreadable."""

import base64
import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from lab.errors import StackError
from lab.files import write_atomically
from lab.stack.state import PRIVATE

FILE = Path("run") / "changes"


@dataclass(frozen=True)
class Changes:
    """Differences from the plan that the settings make.

    Attributes:
        vllm_args: more arguments for the chat model's vLLM
        unscraped: the scrape job that Prometheus leaves out
        chat_url: where Llama Stack sends its model calls instead of to vLLM
        parts: parts on demand that run while these changes apply
    """

    vllm_args: str = ""
    unscraped: str = ""
    chat_url: str = ""
    parts: tuple[str, ...] = ()


NO_CHANGES = Changes()


def read(state_dir: Path) -> Changes:
    """Return the changes that apply now; none where there is no file, or an unreadable one."""
    try:
        return msgspec.convert(unseal((state_dir / FILE).read_text()), Changes)
    except (OSError, StackError, msgspec.ValidationError):
        return NO_CHANGES


def write(state_dir: Path, changes: Changes) -> None:
    """Write the changes, which apply from the supervisor's next repair on (SIGHUP)."""
    write_atomically(state_dir / FILE, seal(asdict(changes)), PRIVATE)


def remove(state_dir: Path) -> None:
    """Return to the plan that the settings make."""
    (state_dir / FILE).unlink(missing_ok=True)


def seal(value: dict[str, Any]) -> str:
    """Return a value as text that shows nothing of it.

    This keeps a hidden incident from being read by accident, with `grep` or in an editor. It is
    not encryption.
    """
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def unseal(text: str) -> dict[str, Any]:
    """Return the value of a sealed text. Raises StackError for another text."""
    try:
        return dict(json.loads(zlib.decompress(base64.b64decode(text, validate=True))))
    except (ValueError, TypeError, zlib.error) as e:
        raise StackError(
            "the record of the incident cannot be read",
            got=repr(e),
            fix="run `lab down`, then `lab up`",
        ) from e
