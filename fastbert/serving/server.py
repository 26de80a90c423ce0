"""Starts a server and stops it: uvicorn for HTTP, and the workers."""

from __future__ import annotations

import importlib.util

from fastbert.errors import BackendError, InputError
from fastbert.serving.settings import Settings

_NEEDED = ("fastapi", "uvicorn", "orjson", "prometheus_client")
_SECONDS = 60  # that requests in flight have to end once the server is told to stop


def check_installed() -> None:
    """Raises InputError where a package of the extra `serve` is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"serve needs the package {missing[0]} (pip install 'fastbert-triton[serve]')")


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
        InputError: see above. CheckpointError: the model cannot be loaded. BackendError: the port is taken.
    """
    check_installed()
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
        host=settings.hostname,
        port=settings.port,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS,
        lifespan="on",
    )
    server = Server(config, settings)
    server.run()
    if workers.failure is not None:
        raise workers.failure
    if not server.started:
        raise BackendError(f"cannot listen at {settings.hostname}:{settings.port}: is another server there?")
