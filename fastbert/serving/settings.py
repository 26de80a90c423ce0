"""What a server is told: flags, and environment variables, by text-embeddings-inference's names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fastbert.errors import InputError

FROM_ENVIRONMENT = (  # names that text-embeddings-inference reads too, but HOSTNAME, which shells set for something else
    *("model_id", "served_model_name", "pooling", "dtype", "port", "api_key", "auto_truncate"),
    *("max_concurrent_requests", "max_batch_tokens", "max_client_batch_size", "payload_limit"),
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


@dataclass(frozen=True)
class Settings:
    """Limits and names of a server.

    Attributes:
        model_id: a directory or a hub id.
        served_model_name: what responses call it; None means `model_id`.
        task: one of `choices.SERVED`; None means the model's own.
        pooling: of vectors; None means the model's own.
        dtype: of the parameters; None means the checkpoint's.
        device: None means CUDA if there is one.
        workers: processes with a model: None means one a CUDA device, or one.
        threads: of a CPU, for each worker.
        hostname, port: where it listens.
        max_concurrent_requests: requests that are worked on at once; more are answered 429.
        max_batch_tokens: tokens of a batch.
        max_client_batch_size: inputs of a request.
        payload_limit: bytes of a request's body.
        auto_truncate: truncate texts that are too long, where a request does not say; otherwise they are answered 413.
        api_key: what clients must send as `Authorization: Bearer KEY`; None asks for nothing.
        local_files_only: never contact the hub.
    """

    model_id: str
    served_model_name: str | None = None
    task: str | None = None
    pooling: str | None = None
    dtype: str | None = None
    device: str | None = None
    workers: int | None = None
    threads: int | None = None
    hostname: str = "127.0.0.1"
    port: int = 3000
    max_concurrent_requests: int = 512
    max_batch_tokens: int = 16384
    max_client_batch_size: int = 32
    payload_limit: int = 2_000_000
    auto_truncate: bool = False
    api_key: str | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        """Checks the numbers."""
        least = {"port": 0, "workers": 1, "threads": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < least.get(field.name, 1):
                raise InputError(f"{field.name} = {value} must be at least {least.get(field.name, 1)}")
        if self.port > 65535:
            raise InputError(f"port = {self.port} must be at most 65535")
        if self.api_key is not None:
            object.__setattr__(self, "api_key", self.api_key.strip())  # files of secrets often end in a line end
        if self.api_key == "":
            raise InputError("api_key is empty; leave it out to ask for none")

    @property
    def name(self) -> str:
        """What responses call the model."""
        return self.served_model_name or self.model_id


def from_environment(given: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from those given, and from variables such as MAX_BATCH_TOKENS where none, or None, is given.

    Raises:
        InputError: a variable with a value that is none of its kind.
    """
    environment = os.environ if environment is None else environment
    found = {name: value for name, value in given.items() if value is not None}
    for field in fields(Settings):
        text = environment.get(field.name.upper()) if field.name in FROM_ENVIRONMENT else None
        if field.name not in found and text is not None and text != "":
            found[field.name] = _value(field.name, str(field.type), text)
    return Settings(**found)


def _value(name: str, kind: str, text: str) -> Any:
    if kind.startswith("int"):
        if not text.strip().isdecimal():
            raise InputError(f"{name.upper()} = {text!r} in the environment must be a whole number")
        return int(text)
    if kind.startswith("bool"):
        if text.lower() not in _TRUE + _FALSE:
            raise InputError(f"{name.upper()} = {text!r} in the environment must be true or false")
        return text.lower() in _TRUE
    return text
