"""Makes Triton's interpreter faster for the suite, with the same results."""

from __future__ import annotations

import inspect
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def patch_once_a_launch() -> None:
    """The interpreter replaces the functions of `triton.language` at each launch, and looks for them again at each call of a
    device function, which takes a third of its time. Once for each launch and set of modules is enough.
    """
    patch = getattr(interpreter, "_patch_lang", None)
    if patch is None or not hasattr(interpreter, "_LangPatchScope"):
        return
    patched: set[frozenset[int]] = set()

    def once(fn: Any) -> Any:
        launch = not patched
        modules = frozenset(
            id(value) for value in fn.__globals__.values() if inspect.ismodule(value) and value in (tl, tl.core)
        )
        if modules in patched:
            return interpreter._LangPatchScope()
        patched.add(modules)
        scope = patch(fn)
        if launch:  # its end restores the modules; a device function's patch stays, as without this
            restore = scope.restore

            def end() -> None:
                patched.clear()
                restore()

            scope.restore = end
        return scope

    interpreter._patch_lang = once


def use_larger_blocks() -> None:
    """Rows of the launch table for the interpreter, whose time goes by programs and not by what they compute."""
    from fastbert.kernels import tuning

    for op in ("layer_norm_fwd", "layer_norm_bwd"):
        rows = tuning.TABLE[op]
        rows["interpreter"] = [(limits, {**row, "BLOCK_T": 16}) for limits, row in rows["default"] if row is not None]
