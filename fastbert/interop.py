"""Where transformers is loaded, our models and outputs are its kind: what libraries ask by `isinstance` before they help.

Trainer saves a model's configuration, sentence-transformers adds adapters and accelerate casts outputs only of transformers'
own classes. `join` makes those bases of ours, behind our own methods. Nothing is imported for it, and without transformers
nothing changes.
"""

from __future__ import annotations

import sys
from typing import Any

_waiting: dict[type, tuple[str, str]] = {}  # class: module and name of the base that it gets


def joins(module: str, name: str) -> Any:
    """Decorator of a class that gets the base `name` as soon as `module` is loaded; its own base must be one of that base's."""

    def mark(cls: type) -> type:
        _waiting[cls] = (module, name)
        return cls

    return mark


def join() -> None:
    """Gives the classes that wait for it their base, where its module is loaded by now."""
    for cls, (module, name) in list(_waiting.items()):
        base = getattr(sys.modules.get(module), name, None)  # not there either while the module is half imported
        if base is not None:
            cls.__bases__ = (base,)
            del _waiting[cls]
