"""If transformers is loaded, our models, outputs and tokenizers are instances of its base classes, which libraries check.

Trainer saves the configuration, sentence-transformers adds adapters and accelerate casts outputs only of transformers' own
classes. `join` makes those bases of ours, behind our own methods. A program that has not imported transformers is left alone.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

_waiting: dict[type, tuple[str, str]] = {}  # class: module and name of the base that it gets
_lock = threading.Lock()


def joins(module: str, name: str) -> Any:
    """Decorator of a class that gets the base `name` of `module` once that is imported; see `join`.

    The class must derive from a base of that base, or from a class without anything of its own. Other bases of ours stay
    before it.
    """

    def mark(cls: type) -> type:
        _waiting[cls] = (module, name)
        return cls

    return mark


def join(*classes: type) -> None:
    """Gives classes that wait for it their base, where its module is imported by now. transformers loads its parts then."""
    for cls in classes:
        if cls not in _waiting:
            continue
        module, name = _waiting[cls]
        try:
            base = getattr(sys.modules.get(module), name, None)  # not there either while the module is half imported
        except (ImportError, RuntimeError):  # a part of transformers that cannot be loaded here
            continue
        with _lock:
            if base is not None and cls in _waiting:
                cls.__bases__ = (*(own for own in cls.__bases__ if not issubclass(base, own)), base)
                del _waiting[cls]
