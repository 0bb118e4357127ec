"""A router that sends a share of the chat requests to the canary, as a rollout in steps does."""

from __future__ import annotations

import json
import socket
from random import Random
from threading import Thread

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from lab.stack.plan import CANARY
from lab.stack.ports import HOST

CHAT = "/v1/chat/completions"
METHODS = ["GET", "POST", "DELETE"]
NOT_FORWARDED = ("host", "content-length", "transfer-encoding", "connection")


def serve(stable_url: str, canary_url: str, share: float, seed: int) -> str:
    """Serve the router from a thread of this process until that ends; returns its URL."""
    listening = socket.create_server((HOST, 0))
    config = uvicorn.Config(
        router(stable_url, canary_url, share, seed), log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    Thread(target=server.run, args=([listening],), daemon=True).start()
    return f"http://{HOST}:{listening.getsockname()[1]}"


def router(stable_url: str, canary_url: str, share: float, seed: int) -> Starlette:
    """Return the router as an ASGI application. All but the share of chat requests go on as is."""
    random = Random(seed)
    client = httpx.AsyncClient(timeout=None, trust_env=False)

    async def forward(request: Request) -> StreamingResponse:
        body = await request.body()
        url = stable_url
        if request.url.path == CHAT and random.random() < share:
            url = canary_url
            body = json.dumps(json.loads(body) | {"model": CANARY}).encode()

        headers = [(k, v) for k, v in request.headers.items() if k not in NOT_FORWARDED]
        sent = client.build_request(
            request.method, f"{url}{request.url.path}", headers=headers, content=body
        )
        reply = await client.send(sent, stream=True)
        kept = {k: v for k, v in reply.headers.items() if k not in NOT_FORWARDED}
        return StreamingResponse(
            reply.aiter_raw(), reply.status_code, kept, background=BackgroundTask(reply.aclose)
        )

    return Starlette(routes=[Route("/{path:path}", forward, methods=METHODS)])
