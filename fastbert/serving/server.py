"""Starts a server and stops it: uvicorn for HTTP, and the workers."""

from __future__ import annotations

import socket

from fastbert.errors import BackendError, InputError, check_package
from fastbert.serving.settings import Settings
from fastbert.stopping import Stopped
from fastbert.terminal import show_note

_NEEDED = ("fastapi", "uvicorn", "orjson", "prometheus_client")
_SECONDS = 60  # that requests in flight have to end once the server is told to stop


def count_of_workers(settings: Settings) -> int:
    """How many workers: as asked, else one a CUDA device, or one.

    Raises:
        InputError: several on a device that is not CUDA.
    """
    import torch

    devices = torch.cuda.device_count() if settings.device in (None, "cuda") else 0
    if settings.workers is None:
        return max(devices, 1)
    if settings.workers > max(devices, 1):
        what = f"{devices} CUDA devices" if devices else "no CUDA device: one worker takes all cores"
        raise InputError(f"workers = {settings.workers}: there are {what}")
    return settings.workers


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or Ctrl-C; then answers what it has accepted, and ends.

    Raises:
        InputError: see above. CheckpointError: the model cannot be loaded.
    """
    for package in _NEEDED:
        check_package("serve", package, "serve")
    import uvicorn

    from fastbert.serving.app import make_app
    from fastbert.serving.listening import Server
    from fastbert.serving.workers import Workers

    model = {
        "model": settings.model_id,
        "kind": settings.task,
        "device": settings.device,
        "dtype": settings.dtype,
        "pooling": settings.pooling,
        "local_files_only": settings.local_files_only,
    }
    workers = Workers(
        model, count_of_workers(settings), settings.threads, settings.max_batch_tokens, settings.max_concurrent_requests
    )
    app = make_app(settings, workers)
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS,
        lifespan="on",
    )
    with _listening(settings) as place:
        try:
            Server(config, settings).run(sockets=[place])
        except (Stopped, KeyboardInterrupt):  # uvicorn raises the signal anew once it has drained
            show_note("fastbert: stopped")
        except SystemExit:
            raise workers.failure or BackendError("the server could not start") from None
        finally:
            workers.kill()


def _listening(settings: Settings) -> socket.socket:
    """A socket at the address, taken before the model is loaded.

    Raises:
        InputError: the address is taken, or is none of this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.hostname, settings.port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"cannot listen at hostname = {settings.hostname!r}, port = {settings.port}: {why}") from None
    return found
