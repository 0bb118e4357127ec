"""Puts the help desk's documents into Llama Stack's vector store. A task of the stack: `python -m lab.stack.ingest_documents`.

Does nothing if the store of that name already holds these very files, so that `lab up` may run it every time.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from lab.errors import LabError, StackError, WorldError
from lab.stack.llama_stack_config import CHUNK_OVERLAP_TOKENS, CHUNK_TOKENS, EMBED_PROVIDER
from lab.stack.state import write_json
from lab.stack.vllm_args import EMBED_DIMENSION, EMBED_MODEL

STORE_NAME = "help-desk"
INDEX_LIMIT_S = 120.0


def ingest(llama_stack_url: str, documents: Path) -> dict[str, Any]:
    """{vector_store_id, files, digest} of the store that holds the documents. Makes it if it is not there as it should.

    Raises WorldError if there are no documents, StackError if Llama Stack could not index one.
    """
    paths = sorted(documents.glob("*.md"))
    if not paths:
        raise WorldError(
            f"there are no documents in {documents}", fix="restore data/world/documents with git"
        )
    digest = hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in paths)).hexdigest()[
        :16
    ]
    from llama_stack_client import LlamaStackClient

    client = LlamaStackClient(base_url=llama_stack_url, timeout=60)
    for store in client.vector_stores.list(limit=100):
        if store.name == STORE_NAME:
            if store.metadata.get("digest") == digest and store.file_counts.completed == len(paths):
                return {"vector_store_id": store.id, "files": len(paths), "digest": digest}
            client.vector_stores.delete(
                vector_store_id=store.id
            )  # of other documents, or never finished
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
    return {"vector_store_id": store.id, "files": len(paths), "digest": digest}


def _index(client: Any, store_id: str, path: Path) -> None:
    text = (
        path.read_bytes().rstrip()
    )  # a chunk is quoted as it is, and the model was trained without the last line end
    uploaded = client.files.create(file=(path.name, text, "text/markdown"), purpose="assistants")
    chunking = {
        "type": "static",
        "static": {
            "max_chunk_size_tokens": CHUNK_TOKENS,
            "chunk_overlap_tokens": CHUNK_OVERLAP_TOKENS,
        },
    }
    added = client.vector_stores.files.create(
        vector_store_id=store_id,
        file_id=uploaded.id,
        attributes={"document": path.stem},
        chunking_strategy=chunking,
    )
    limit = time.monotonic() + INDEX_LIMIT_S
    while added.status == "in_progress" and time.monotonic() < limit:
        time.sleep(0.2)
        added = client.vector_stores.files.retrieve(vector_store_id=store_id, file_id=uploaded.id)
    if added.status != "completed":
        got = f"status {added.status}, {added.last_error}"
        raise StackError(
            f"{path.name} was not indexed",
            got=got,
            fix="read the logs of llama-stack and of vllm-embed",
        )


def main() -> int:
    """Ingest, write the result as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.stack.ingest_documents", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--llama-stack", required=True, help="base URL of Llama Stack")
    parser.add_argument("--documents", type=Path, required=True, help="folder with *.md")
    parser.add_argument(
        "--result", type=Path, required=True, help="file for the store's id, as JSON"
    )
    args = parser.parse_args()
    try:
        result = ingest(args.llama_stack, args.documents)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    write_json(args.result, result)
    print(f"{result['files']} documents are in vector store {result['vector_store_id']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
