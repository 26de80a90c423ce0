"""Makes Triton's interpreter faster for the suite, with the same results."""

from __future__ import annotations

import inspect
import math
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
    modules_of: dict[Any, frozenset[int]] = {}

    def once(fn: Any) -> Any:
        launch = not patched
        modules = modules_of.get(fn)
        if modules is None:
            modules = modules_of[fn] = frozenset(
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
    members: dict[Any, list[tuple[str, Any]]] = {}  # of each module or class, those that are replaced

    def patch_builtin(package: Any, builder: Any, scope: Any) -> None:
        if package not in members:
            members[package] = [(name, value) for name, value in inspect.getmembers(package) if tl.core.is_builtin(value)]
        for name, value in members[package]:
            interpreter._patch_attr(package, name, value, builder, scope)

    interpreter._patch_builtin = patch_builtin


def share_types() -> None:
    """Every operation of the interpreter makes the types and shapes of its operands anew, which takes more than half of its
    time. They are never changed, so that one of each kind is enough.
    """
    if not hasattr(interpreter, "interpreter_semantic"):
        return
    core, unwrap, semantic = tl.core, tl.core._unwrap_if_constexpr, interpreter.interpreter_semantic
    new_block, new_np_dtype = core.block_type.__init__, interpreter._get_np_dtype
    np_dtypes: dict[str, Any] = {}
    kinds: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, tuple[Any, Any]] = {}
    nested = (list, tuple, core.tuple)

    def unwrap_if_constexpr(value: Any) -> Any:
        if isinstance(value, core.constexpr):
            return value.value
        return unwrap(value) if isinstance(value, nested) else value

    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        key = type(element_ty), element_ty.name, tuple([unwrap_if_constexpr(size) for size in shape])
        if key not in kinds:
            new_block(self, element_ty, shape)
            kinds[key] = vars(self).copy()
        vars(self).update(kinds[key])

    def tensor(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        sizes = tuple(type.shape) if type.is_block() else ()
        if sizes not in shapes:
            shapes[sizes] = core.constexpr(math.prod(sizes)), core.tuple([core.constexpr(size) for size in sizes])
        self.numel, self.shape = shapes[sizes]

    def np_dtype(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in np_dtypes:
            np_dtypes[name] = new_np_dtype(kind)
        return np_dtypes[name]

    class Semantic(type(semantic)):  # type: ignore[misc]
        def broadcast_impl_value(self, lhs: Any, rhs: Any) -> Any:
            alike = lhs.type.is_block() == rhs.type.is_block() and lhs.shape is rhs.shape
            return (lhs, rhs) if alike else super().broadcast_impl_value(lhs, rhs)

        def binary_op_sanitize_overflow_impl(self, lhs: Any, rhs: Any, binary_op: Any) -> None:
            if self.builder.options.debug:  # otherwise what it computes is thrown away
                super().binary_op_sanitize_overflow_impl(lhs, rhs, binary_op)

    core._unwrap_if_constexpr, core.block_type.__init__, core.tensor.__init__ = unwrap_if_constexpr, block_type, tensor
    semantic.__class__ = Semantic
    interpreter._get_np_dtype = np_dtype


def use_larger_blocks() -> None:
    """Rows of the launch table for the interpreter, whose time goes by programs and not by what they compute."""
    from fastbert.kernels import tuning

    for op in ("layer_norm_fwd", "layer_norm_bwd"):
        rows = tuning.TABLE[op]
        rows["interpreter"] = [(limits, {**row, "BLOCK_T": 16}) for limits, row in rows["default"] if row is not None]
