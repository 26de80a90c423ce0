"""Makes our models, outputs and tokenizers instances of transformers' base classes once transformers is imported.

Other libraries check for these classes: Trainer saves the configuration, sentence-transformers adds adapters and accelerate
casts outputs only for them. `join` appends them to the bases of our classes, so that our own methods take precedence. Nothing
happens in a program that has not imported transformers.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

_waiting: dict[type, tuple[str, str]] = {}  # class: module and name of the base class to add
_lock = threading.Lock()


def joins(module: str, name: str) -> Any:
    """Class decorator that registers a class to get the base `name` of `module` once that module is imported; see `join`.

    The class must derive from a base of that base, or from an empty class. The class's other bases stay in front of it.
    """

    def mark(cls: type) -> type:
        _waiting[cls] = (module, name)
        return cls

    return mark


def join(*classes: type) -> None:
    """Adds the registered bases to classes whose base's module is imported by now; may make transformers load its parts."""
    for cls in classes:
        if cls not in _waiting:
            continue
        module, name = _waiting[cls]
        try:
            base = getattr(sys.modules.get(module), name, None)  # also None while the module is still being imported
        except (ImportError, RuntimeError):  # a part of transformers that cannot be loaded here
            continue
        with _lock:
            if base is not None and cls in _waiting:
                cls.__bases__ = (*(own for own in cls.__bases__ if not issubclass(base, own)), base)
                del _waiting[cls]
