"""Put the help desk's documents into Llama Stack's vector store, as a task of the stack.

It does nothing if the store of that name already holds these very files, so that every `lab up` may
run it: `python -m lab.stack.ingest_documents`.
"""

import hashlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.command_line import as_main
from lab.errors import StackError, WorldError
from lab.stack.llama_stack_config import CHUNK_OVERLAP_TOKENS, CHUNK_TOKENS, EMBED_PROVIDER
from lab.stack.state import write_json
from lab.stack.vllm_args import EMBED_DIMENSION, EMBED_MODEL

STORE_NAME = "help-desk"
INDEX_LIMIT_S = 120.0
POLL_S = 0.2


def ingest(llama_stack_url: str, documents: Path) -> dict[str, Any]:
    """Make the store if it is not complete, and return its {vector_store_id, files, digest}.

    Raises WorldError if there are no documents, StackError if Llama Stack could not index one.
    """
    paths = sorted(documents.glob("*.md"))
    if not paths:
        raise WorldError(
            f"there are no documents in {documents}", fix="restore data/world/documents with git"
        )
    content = b"".join(p.name.encode() + p.read_bytes() for p in paths)
    digest = hashlib.sha256(content).hexdigest()[:16]

    from llama_stack_client import LlamaStackClient

    client = LlamaStackClient(base_url=llama_stack_url, timeout=60)
    store_id = _find_store(client, digest, len(paths))
    if not store_id:
        store_id = _make_store(client, digest, paths)
    return {"vector_store_id": store_id, "files": len(paths), "digest": digest}


def _find_store(client: Any, digest: str, files: int) -> str:
    """Return the id of the complete store; delete one with other documents or an unfinished one."""
    for store in client.vector_stores.list(limit=100):
        if store.name != STORE_NAME:
            continue
        if (store.metadata or {}).get("digest") == digest and store.file_counts.completed == files:
            return str(store.id)
        client.vector_stores.delete(vector_store_id=store.id)
    return ""


def _make_store(client: Any, digest: str, paths: list[Path]) -> str:
    store = client.vector_stores.create(
        name=STORE_NAME,
        metadata={"digest": digest},
        extra_body={
            "embedding_model": f"{EMBED_PROVIDER}/{EMBED_MODEL}",
            "embedding_dimension": EMBED_DIMENSION,
        },
    )
    for path in paths:
        _index(client, store.id, path)
    return str(store.id)


def _index(client: Any, store_id: str, path: Path) -> None:
    # A chunk is quoted as it is, and the model was trained without the last line end.
    text = path.read_bytes().rstrip()
    uploaded = client.files.create(file=(path.name, text, "text/markdown"), purpose="assistants")
    chunks = {
        "max_chunk_size_tokens": CHUNK_TOKENS,
        "chunk_overlap_tokens": CHUNK_OVERLAP_TOKENS,
    }
    added = client.vector_stores.files.create(
        vector_store_id=store_id,
        file_id=uploaded.id,
        attributes={"document": path.stem},
        chunking_strategy={"type": "static", "static": chunks},
    )

    limit = time.monotonic() + INDEX_LIMIT_S
    while added.status == "in_progress" and time.monotonic() < limit:
        time.sleep(POLL_S)
        added = client.vector_stores.files.retrieve(vector_store_id=store_id, file_id=uploaded.id)
    if added.status != "completed":
        raise StackError(
            f"{path.name} was not indexed",
            got=f"status {added.status}, {added.last_error}",
            fix="read the logs of llama-stack and of vllm-embed",
        )


def main(
    llama_stack: Annotated[str, typer.Option(help="Base URL of Llama Stack.")],
    documents: Annotated[Path, typer.Option(help="Folder with *.md.")],
    result: Annotated[Path, typer.Option(help="File for the store's id, as JSON.")],
) -> None:
    """Put the documents of a folder into Llama Stack's vector store."""
    store = ingest(llama_stack, documents)
    write_json(result, store)
    print(f"{store['files']} documents are in vector store {store['vector_store_id']}")


if __name__ == "__main__":
    sys.exit(as_main(main, "python -m lab.stack.ingest_documents", prints_errors=True)())
