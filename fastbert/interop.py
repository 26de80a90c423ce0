"""Where transformers is loaded, our models, outputs and tokenizers are its kind: what libraries ask by `isinstance`.

Trainer saves the configuration, sentence-transformers adds adapters and accelerate casts outputs only of transformers' own
classes. `join` makes those bases of ours, behind our own methods. Nothing is imported for it, and without transformers nothing
changes.
"""

from __future__ import annotations

import sys
from typing import Any

_waiting: dict[type, list[tuple[str, str]]] = {}  # class: modules and names of bases that it may get


def joins(*places: tuple[str, str]) -> Any:
    """Decorator of a class that gets a base as soon as its module is loaded: (module, name), of which the first found counts.

    The class must derive from a base of that base, or from a class without anything of its own.
    """

    def mark(cls: type) -> type:
        _waiting[cls] = list(places)
        return cls

    return mark


def join() -> None:
    """Gives the classes that wait for it their base, where its module is loaded by now."""
    for cls, places in list(_waiting.items()):
        for module, name in places:
            base = getattr(sys.modules.get(module), name, None)  # not there either while the module is half imported
            if base is not None:
                cls.__bases__ = (base,)
                del _waiting[cls]
                break
