"""uvicorn's server, which says where it listens once it does."""

from __future__ import annotations

import socket

import uvicorn

from fastbert.serving.settings import Settings
from fastbert.terminal import show_note


class Server(uvicorn.Server):
    """A server.

    Args:
        config: of uvicorn.
        settings: the name and the address for the line on stderr.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        if self.started:
            name, port = self._settings.hostname, self.servers[0].sockets[0].getsockname()[1]
            show_note(f"fastbert: {self._settings.name} at http://{f'[{name}]' if ':' in name else name}:{port}")
