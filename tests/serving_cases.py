"""Servers for tests: the application with a model in this process, and the command as a user starts it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from fastbert.packing.batching import sharing
from fastbert.serving.app import make_app
from fastbert.serving.loop import Loop, Ticket
from fastbert.serving.models import Served
from fastbert.serving.settings import Settings
from fastbert.serving.workers import Workers


class InProcess(Workers):
    """A worker without a process: the same model and loop, in threads."""

    def __init__(self, **model: Any) -> None:
        super().__init__(model)
        self.served = Served(**model)
        self.loop = Loop(self.served.task.model.device, 16384)
        self.info = self.served.info()

    async def start(self) -> dict[str, Any]:
        return self.info

    @property
    def healthy(self) -> bool:
        return True

    async def ask(self, name: str, payload: dict[str, Any]) -> Any:
        def answer() -> Any:
            with sharing(self.loop.runner(Ticket())):
                return self.served.answer(name, payload)

        return await asyncio.to_thread(answer)

    async def stop(self) -> None:
        self.loop.stop()


@contextmanager
def client_of(folder: Path, kind: str | None = None, pooling: str | None = None, **settings: Any) -> Iterator[TestClient]:
    """A client of an application in this process."""
    workers = InProcess(model=str(folder), kind=kind, device="cpu", pooling=pooling)
    with TestClient(make_app(Settings("my-model", **settings), workers), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def listening(folder: Path, kind: str | None = None, **settings: Any) -> Iterator[str]:
    """The address of an application in this process, for a browser."""
    workers = InProcess(model=str(folder), kind=kind, device="cpu", pooling=None)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(Settings("my-model", **settings), workers), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


class Running:
    """`fastbert serve` in a process of its own, at a free port."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "fastbert", "serve", str(folder), "--port", "0", "--device", "cpu", *options]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        self.url = found[0]

    def stop(self) -> str:
        """Ends it as an orchestrator does; returns what it said since."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        self.process.wait(60)
        return said
