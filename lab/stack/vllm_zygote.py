"""Import vLLM once, then fork servers from this process on request. It runs in vLLM's environment.

The imports take most of vLLM's start-up (10 of 15 s here), and vLLM repeats them in every process
that it starts: API server, engine core, worker, and the same for the embedding server. Forked from
here they start at once and share the pages. Forking is sound because this process never runs a
thread (asserted), computes nothing and opens no device.

It talks with the supervisor over a socket pair, one JSON object per message:
    -> {"start": name, "argv": [...], "env": {...}} with the file descriptor of the log
    <- {"imported": seconds}, once
    <- {"started": name, "pid": n}
    <- {"exited": name, "pid": n, "code": n}, where -9 is signal 9
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time

POLL_S = 0.1


def main(control_fd: int) -> None:
    """Serve until the supervisor closes the socket."""
    control = socket.socket(fileno=control_fd)
    started = time.monotonic()
    import_vllm()
    _send(control, {"imported": round(time.monotonic() - started, 2)})
    os.register_at_fork(after_in_child=_die_with_forker)
    servers: dict[int, str] = {}
    while True:
        if select.select([control], [], [], POLL_S)[0]:
            data, fds, _, _ = socket.recv_fds(control, 1 << 20, 1)
            if not data:
                break
            request = json.loads(data)
            pid = _fork_server(control, request, fds[0])
            servers[pid] = request["start"]
            _send(control, {"started": request["start"], "pid": pid})
        _reap(control, servers)
    for pid in servers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def import_vllm() -> None:
    """Import all that the servers import."""
    import multiprocessing

    import vllm.entrypoints.launchers.api_server.entry
    import vllm.entrypoints.launchers.cli_args
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.core
    import vllm.v1.engine.utils
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm.model_executor.models.bert import BertEmbeddingModel
    from vllm.model_executor.models.llama import LlamaForCausalLM
    from vllm.model_executor.models.registry import ModelRegistry

    # Registered by class, these two are not inspected in another process that imports vLLM again.
    ModelRegistry.register_model("LlamaForCausalLM", LlamaForCausalLM)
    ModelRegistry.register_model("BertModel", BertEmbeddingModel)
    # On a CPU vLLM spawns its engine, because of OpenMP's environment (see vllm_args.base_env).
    vllm.v1.engine.utils.get_mp_context = lambda: multiprocessing.get_context("fork")
    gc.collect()
    gc.freeze()  # the collector would write to every page that could stay shared


def _fork_server(control: socket.socket, request: dict, log_fd: int) -> int:
    assert threading.active_count() == 1, "a thread was started before the fork"
    pid = os.fork()
    if pid:
        os.close(log_fd)
        return pid
    code = 1
    try:
        control.close()
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.environ.update(request["env"])
        sys.argv = ["vllm", *request["argv"]]
        from vllm.entrypoints.launchers.api_server.entry import main as serve

        serve()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with_forker() -> None:
    from lab.stack.processes import die_with_parent

    die_with_parent(os.getppid())


def _reap(control: socket.socket, servers: dict[int, str]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in servers:
                code = os.waitstatus_to_exitcode(status)
                _send(control, {"exited": servers.pop(pid), "pid": pid, "code": code})


def _send(control: socket.socket, message: dict) -> None:
    control.sendall(json.dumps(message).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
