"""The table of opcodes: for each first part of a name the function that translates all its forms.

A function gets the translator, the instruction, and its predicate as an expression or None; what it does not know it raises as
`unknown(i)`. To add an opcode, write such a function under `@opcode("name")`, and a case in test_emulator_opcodes.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from emulator.ptx import BITS_OF, BYTES, DTYPES, Instruction, is_register
from emulator.translation import Translator, unknown

Handler = Callable[[Translator, Instruction, str | None], None]
TABLE: dict[str, Handler] = {}

_INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
_COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
_UNORDERED = {f"{name}u": sign for name, sign in _COMPARISONS.items() if len(name) == 2 and name[0] in "enlg"}
_ROUNDINGS = ("rzi", "rni", "rmi", "rpi")
_PAIRS = ("bf16x2", "f16x2")


def opcode(*names: str) -> Callable[[Handler], Handler]:
    """Enters a function in the table."""

    def enter(handler: Handler) -> Handler:
        TABLE.update(dict.fromkeys(names, handler))
        return handler

    return enter


def _type(i: Instruction) -> str:
    """The last type in the name: of the operands."""
    return next(part for part in reversed(i.parts) if part in DTYPES)


# -- integers and floats -------------------------------------------------------------------------------------------------------


@opcode("add", "sub", "and", "or", "xor")
def infix(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    if type in ("bf16", *_PAIRS):
        raise unknown(i)
    a, b = (t.use(operand, type) for operand in i.operands[1:3])
    t.put(i.operands[0], f"{a} {_INFIX[i.opcode]} {b}", type, predicate)


@opcode("mul", "mad")
def product(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = result = _type(i)
    a, b = (t.use(operand, type) for operand in i.operands[1:3])
    if "wide" in i.parts:
        result = type[0] + str(16 * BYTES[type])
        text = f"{t.cast(a, result)} * {t.cast(b, result)}"
    elif "hi" in i.parts:
        if type not in ("u32", "s32"):
            raise unknown(i)
        text = f"mul_hi({a}, {b})"
    else:
        text = f"{a} * {b}"
    if i.opcode == "mad":
        text = f"{text} + {t.use(i.operands[3], result)}"
    t.put(i.operands[0], text, result, predicate)


@opcode("fma")
def fused(t: Translator, i: Instruction, predicate: str | None) -> None:
    if _type(i) != "f32":
        raise unknown(i)
    a, b, c = (t.use(operand, "f32") for operand in i.operands[1:4])
    t.put(i.operands[0], f"fma({a}, {b}, {c})", "f32", predicate)


@opcode("div", "rem")
def division(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    a, b = (t.use(operand, type) for operand in i.operands[1:3])
    text = f"{a} / {b}" if type[0] == "f" else f"divide({a}, {b})"
    t.put(i.operands[0], text if i.opcode == "div" else f"{a} - {text} * {b}", type, predicate)


@opcode("max", "min")
def extreme(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    a, b = (t.use(operand, type) for operand in i.operands[1:3])
    skips_nan = type[0] == "f" and "NaN" not in i.parts
    t.put(i.operands[0], f"np.{f'f{i.opcode}' if skips_nan else f'{i.opcode}imum'}({a}, {b})", type, predicate)


@opcode("neg", "not", "abs")
def unary(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    if type in ("bf16", *_PAIRS):
        raise unknown(i)
    a = t.use(i.operands[1], type)
    t.put(i.operands[0], {"neg": f"-{a}", "not": f"~{a}", "abs": f"np.abs({a})"}[i.opcode], type, predicate)


@opcode("shl", "shr")
def shift(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    a, by = t.use(i.operands[1], type), t.use(i.operands[2], "u32")
    t.put(i.operands[0], f"shift_{'left' if i.opcode == 'shl' else 'right'}({a}, {by})", type, predicate)


@opcode("bfe")
def bit_field(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    a, (start, length) = t.use(i.operands[1], type), (t.use(operand, "u32") for operand in i.operands[2:4])
    t.put(i.operands[0], f"bit_field({a}, {start}, {length})", type, predicate)


@opcode("prmt")
def permute(t: Translator, i: Instruction, predicate: str | None) -> None:
    if len(i.parts) > 2:
        raise unknown(i)
    a, b, selector = (t.use(operand, "u32") for operand in i.operands[1:4])
    t.put(i.operands[0], f"permute({a}, {b}, {selector})", "b32", predicate)


@opcode("lop3")
def lop3(t: Translator, i: Instruction, predicate: str | None) -> None:
    a, b, c = (t.use(operand, "u32") for operand in i.operands[1:4])
    t.put(i.operands[0], f"lop3({a}, {b}, {c}, {i.operands[4]})", "b32", predicate)


@opcode("ex2", "lg2", "rsqrt", "sqrt", "rcp")
def special(t: Translator, i: Instruction, predicate: str | None) -> None:
    if _type(i) != "f32":
        raise unknown(i)
    x = t.use(i.operands[1], "f32")
    text = {
        "ex2": f"ex2({x}, {'ftz' in i.parts})",
        "lg2": f"np.log2({x})",
        "rsqrt": f"F32(1) / np.sqrt({x})",
        "sqrt": f"np.sqrt({x})",
        "rcp": f"F32(1) / {x}",
    }[i.opcode]
    t.put(i.operands[0], text, "f32", predicate)


@opcode("setp")
def compare(t: Translator, i: Instruction, predicate: str | None) -> None:
    type, how, results = _type(i), i.parts[1], i.operands[0]
    if len(i.operands) != 3 or (isinstance(results, list) and type not in _PAIRS):
        raise unknown(i)
    if type in _PAIRS:
        pairs = [t.use(operand, "u32") for operand in i.operands[1:3]]
        for which, register in enumerate(results if isinstance(results, list) else [results]):
            a, b = (f"half({pair}, {which}, {type!r})" for pair in pairs)
            t.put(register, _comparison(i, how, a, b, True), "pred", predicate)
        return
    if type == "bf16":
        a, b = (f"from_bf16({t.use(operand, 'u16')})" for operand in i.operands[1:3])
    else:
        a, b = (t.use(operand, type) for operand in i.operands[1:3])
    t.put(results, _comparison(i, how, a, b, type == "bf16" or type[0] == "f"), "pred", predicate)


def _comparison(i: Instruction, how: str, a: str, b: str, is_float: bool) -> str:
    if how in ("num", "nan"):
        return f"~unordered({a}, {b})" if how == "num" else f"unordered({a}, {b})"
    if how in _UNORDERED and how not in _COMPARISONS:  # true where one is NaN
        return f"({a} {_UNORDERED[how]} {b}) | unordered({a}, {b})"
    if how not in _COMPARISONS:
        raise unknown(i)
    text = f"{a} {_COMPARISONS[how]} {b}"
    return f"({text}) & ~unordered({a}, {b})" if is_float and how == "ne" else text


@opcode("selp")
def select(t: Translator, i: Instruction, predicate: str | None) -> None:
    type = _type(i)
    a, b = (t.use(operand, type) for operand in i.operands[1:3])
    t.put(i.operands[0], f"np.where({t.use(i.operands[3], 'pred')}, {a}, {b})", type, predicate)


@opcode("mov")
def move(t: Translator, i: Instruction, predicate: str | None) -> None:
    type, (to, what) = i.parts[1], i.operands
    if isinstance(to, list):  # a register apart
        part, whole = BITS_OF[BYTES[type] // len(to)], BITS_OF[BYTES[type]]
        bits = t.use(what, whole)
        for place, register in enumerate(to):
            shifted = f"({bits} >> {t.constant(whole, place * 8 * BYTES[part])})" if place else bits
            t.put(register, t.cast(shifted, part), part, predicate)
    elif isinstance(what, list):  # several together
        part, whole = BITS_OF[BYTES[type] // len(what)], BITS_OF[BYTES[type]]
        parts = [t.cast(t.use(operand, part), whole) for operand in what]
        shifts = (t.constant(whole, place * 8 * BYTES[part]) for place in range(len(parts)))
        t.put(to, " | ".join(f"({one} << {by})" for one, by in zip(parts, shifts, strict=True)), whole, predicate)
    elif predicate is None and is_register(what) and t.bits(what) == t.bits(to):
        t.copy(to, what)
    else:
        t.put(to, t.use(what, type), type, predicate)


@opcode("cvta")
def to_generic(t: Translator, i: Instruction, predicate: str | None) -> None:
    t.put(i.operands[0], t.use(i.operands[1], "u64"), "u64", predicate)


@opcode("cvt")
def convert(t: Translator, i: Instruction, predicate: str | None) -> None:
    to, kinds = i.operands[0], [part for part in i.parts[1:] if part in DTYPES]
    if len(i.operands) == 3:
        if kinds == ["e4m3x2", "f32"] and "satfinite" in i.parts:
            high, low = (t.cast(f"to_e4m3({t.use(operand, 'f32')})", "u16") for operand in i.operands[1:3])
            t.put(to, f"({low} | ({high} << EIGHT))", "b16", predicate)
            return
        if kinds[0] not in _PAIRS or kinds[1] != "f32" or "relu" in i.parts:
            raise unknown(i)
        function = "to_bf16" if kinds[0] == "bf16x2" else "to_f16"
        high, low = (t.cast(f"{function}({t.use(operand, 'f32')})", "u32") for operand in i.operands[1:3])
        t.put(to, f"({low} | ({high} << SIXTEEN))", "b32", predicate)
        return
    if len(kinds) != 2 or any(part in ("sat", "relu") for part in i.parts):
        raise unknown(i)
    result, given = kinds
    special = {("f32", "bf16"): "from_bf16", ("bf16", "f32"): "to_bf16", ("f16", "f32"): "to_f16"}.get((result, given))
    if special is not None:
        text = f"{special}({t.use(i.operands[1], 'u16' if given == 'bf16' else given)})"
        t.put(to, text, "f32" if result == "f32" else "b16", predicate)
        return
    rounding = next((part for part in i.parts if part in _ROUNDINGS), None)
    x = t.use(i.operands[1], given)
    if result[0] in "us" and given[0] == "f":
        if rounding is None:
            raise unknown(i)
        t.put(to, f"to_integer({x}, {t.dtype(result)}, {rounding!r})", result, predicate)
        return
    if rounding is not None or "bf16" in kinds:
        raise unknown(i)
    t.put(to, t.cast(x, result), result, predicate)


# -- memory --------------------------------------------------------------------------------------------------------------------


@opcode("ld")
def load(t: Translator, i: Instruction, predicate: str | None) -> None:
    space, type = i.parts[1].split("::")[0], i.parts[-1]
    to, where = i.operands
    if space == "param":
        place = next(n for n, parameter in enumerate(t.program.parameters) if parameter.name == where.base)
        t.put(to, f"M.parameters[{place}].view({t.dtype(type)})", type, predicate)
        return
    if space not in ("global", "shared"):
        raise unknown(i)
    registers = to if isinstance(to, list) else [to]
    text = f"M.{space}_memory.load(T, {t.address(where, space)}, {BYTES[type]}, {len(registers)}, {predicate}, {t.here})"
    t.results(registers, text, BITS_OF[BYTES[type]], predicate)


@opcode("st")
def store(t: Translator, i: Instruction, predicate: str | None) -> None:
    space, type = i.parts[1].split("::")[0], i.parts[-1]
    where, what = i.operands
    if space not in ("global", "shared"):
        raise unknown(i)
    values = ", ".join(t.use(value, BITS_OF[BYTES[type]]) for value in (what if isinstance(what, list) else [what]))
    t.emit(f"M.{space}_memory.store(T, {t.address(where, space)}, {BYTES[type]}, ({values},), {predicate}, {t.here})")


@opcode("ldmatrix")
def load_matrix(t: Translator, i: Instruction, predicate: str | None) -> None:
    registers, where = i.operands
    if predicate is not None or "m8n8" not in i.parts:
        raise unknown(i)
    text = f"M.shared_memory.load_matrix(T, {t.address(where, 'shared')}, {len(registers)}, {'trans' in i.parts}, {t.here})"
    t.results(registers, text, "b32", predicate)


@opcode("stmatrix")
def store_matrix(t: Translator, i: Instruction, predicate: str | None) -> None:
    where, registers = i.operands
    if predicate is not None or "m8n8" not in i.parts:
        raise unknown(i)
    values = ", ".join(t.use(register, "u32") for register in registers)
    t.emit(f"M.shared_memory.store_matrix(T, {t.address(where, 'shared')}, ({values},), {'trans' in i.parts}, {t.here})")


@opcode("cp")
def copy(t: Translator, i: Instruction, predicate: str | None) -> None:
    name, operands = i.name, i.operands
    if name == "cp.async.commit_group":
        t.emit("M.copies.commit(T)")
    elif name in ("cp.async.wait_group", "cp.async.wait_all"):
        t.emit(f"M.copies.wait(T, {operands[0] if operands else 0}, {t.here})")
    elif name == "cp.async.bulk.commit_group":
        t.emit("M.reads.commit(T, 'bulk')")
    elif name.startswith("cp.async.bulk.wait_group"):
        t.emit(f"M.reads.wait(T, 'bulk', {operands[0]})")
    elif name == "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes":
        to, what, barrier = operands
        text = f"{t.address(to, 'shared')}, {_box(t, what)}, {t.address(barrier, 'shared')}"
        t.emit(f"M.tensors.load(T, {text}, {predicate}, {t.here})")
    elif name == "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group":
        what, source = operands
        t.emit(f"M.tensors.store(T, {t.address(source, 'shared')}, {_box(t, what)}, {predicate}, {t.here})")
    elif name.startswith(("cp.async.cg.shared", "cp.async.ca.shared")):
        to, what, size, *given = operands
        count = t.use(given[0], "u32") if given else None
        text = f"{t.address(to, 'shared')}, {t.address(what, 'global')}, {size}, {count}"
        t.emit(f"M.copies.start(T, {text}, {predicate}, {t.here})")
    else:
        raise unknown(i)


def _box(t: Translator, what: Any) -> str:
    """The tensor map of a tensor copy, and its column and row."""
    column, row = (t.use(coordinate, "s32") for coordinate in what.coordinates[0])
    return f"{t.use(what.base, 'u64')}, {column}, {row}"


@opcode("mbarrier")
def mbarrier(t: Translator, i: Instruction, predicate: str | None) -> None:
    what = i.parts[1]
    if what == "init":
        where, count = i.operands
        t.emit(f"M.tensors.init(T, {t.address(where, 'shared')}, {t.use(count, 'u32')}, {predicate}, {t.here})")
    elif what == "inval":
        t.emit(f"M.tensors.end(T, {t.address(i.operands[0], 'shared')}, {predicate}, {t.here})")
    elif what == "arrive" and i.parts[2] == "expect_tx":
        _, where, size = i.operands
        t.emit(f"M.tensors.arrive(T, {t.address(where, 'shared')}, {t.use(size, 'u32')}, {predicate}, {t.here})")
    elif what == "try_wait" and "parity" in i.parts:
        register, where, parity = i.operands[:3]
        text = f"M.try_wait(T, {t.address(where, 'shared')}, {t.use(parity, 'u32')}, {t.here})"
        t.put(register, text, "pred", predicate)
    else:
        raise unknown(i)


# -- threads together ----------------------------------------------------------------------------------------------------------


@opcode("bar", "barrier")
def barrier(t: Translator, i: Instruction, predicate: str | None) -> None:
    if i.parts[1] == "warp":
        t.emit(f"M.need_whole_warps(T, {t.here})")
    elif predicate is not None or i.operands != (0,):
        raise unknown(i)
    else:
        t.emit(f"M.barrier(T, {t.here})")


@opcode("fence")
def fence(t: Translator, i: Instruction, predicate: str | None) -> None:
    if not i.name.startswith("fence.proxy.async"):
        raise unknown(i)
    t.emit("M.reads.fence(T)")


@opcode("shfl")
def shuffle(t: Translator, i: Instruction, predicate: str | None) -> None:
    to, value, source, limits = i.operands[:4]
    how = i.parts[2]
    if isinstance(to, list) or limits != {"bfly": 31, "idx": 31, "down": 31, "up": 0}.get(how, -1):
        raise unknown(i)
    t.emit(f"M.need_whole_warps(T, {t.here})")
    lane = str(source) if isinstance(source, int) else t.use(source, "u32")
    t.put(to, f"shuffle_{how}(T, {t.use(value, 'u32')}, {lane})", "b32", predicate)


@opcode("redux")
def reduce(t: Translator, i: Instruction, predicate: str | None) -> None:
    how, type = i.parts[2], _type(i)
    if how not in ("add", "min", "max", "and", "or", "xor") or type not in ("u32", "s32", "b32"):
        raise unknown(i)
    t.emit(f"M.need_whole_warps(T, {t.here})")
    t.put(i.operands[0], f"reduce_warps(T, {t.use(i.operands[1], type)}, {how!r})", type, predicate)


@opcode("elect")
def elect(t: Translator, i: Instruction, predicate: str | None) -> None:
    leader, chosen = i.operands[0]
    t.emit(f"M.need_whole_warps(T, {t.here})")
    t.put(leader, t.constant("u32", 0), "b32", predicate)
    t.put(chosen, f"T.lane == {t.constant('u32', 0)}", "pred", predicate)


@opcode("mma")
def multiply_by_warps(t: Translator, i: Instruction, predicate: str | None) -> None:
    shape = re.fullmatch(r"m16n8k(\d+)", i.parts[3])
    result, kind, other, sum_kind = i.parts[6:10] if len(i.parts) >= 10 else ("",) * 4
    known = {("bf16", 16), ("f16", 16), ("bf16", 8), ("f16", 8), ("tf32", 8)}
    if shape is None or (result, sum_kind, kind) != ("f32", "f32", other) or (kind, int(shape[1])) not in known:
        raise unknown(i)
    if predicate is not None:
        raise unknown(i)
    to, a, b, c = i.operands
    left, right = t.fragment("fragment_a", kind, a), t.fragment("fragment_b", kind, b)
    addend = t.accumulator(c, "accumulator_of_warps")
    t.emit(f"M.need_whole_warps(T, {t.here})")
    t.keep_matrix(to, f"np.matmul({left}, {right}) + {addend}", "registers_of_warps")


@opcode("wgmma")
def multiply_by_groups(t: Translator, i: Instruction, predicate: str | None) -> None:
    what = i.parts[1]
    if what == "fence":
        return
    if what == "commit_group":
        t.emit("M.products.commit(T)")
        return
    if what == "wait_group":
        t.emit(f"M.products.wait(T, {i.operands[0]})")
        return
    shape = re.fullmatch(r"m64n(\d+)k(?:8|16|32)", i.parts[4])
    result, kind, other = i.parts[5:8]
    known = kind in ("bf16", "f16", "tf32", "e4m3") and (result, other) == ("f32", kind)
    if shape is None or not known or predicate is not None:
        raise unknown(i)
    to, a, b, scale, negate_a, negate_b, *by_rows = i.operands
    if (negate_a, negate_b) != (1, 1):
        raise unknown(i)
    names = []
    for operand, rows, flip in ((a, 64, by_rows[:1]), (b, int(shape[1]), by_rows[-1:])):
        name = t.fresh()
        if isinstance(operand, list):
            t.emit(f"{name} = {t.fragment('fragment_a', kind, operand)}.reshape(T.count // GROUP, 64, -1)")
            names.append(name)
        else:
            given = f"{t.use(operand, 'u64')}, {rows}, {flip[0] if flip else 0}, {kind!r}, {t.here}"
            t.emit(f"{name} = M.products.operand(T, {given})")
            names.append(f"{name}()")
    addend, chain = "", t.accumulator(to, "accumulator_of_groups") if not isinstance(scale, int) or scale else None
    if chain is not None:
        value = f"{chain}.value()" if chain in t.matrices else chain
        addend = f" + unless_zero(T, {value}, {t.use(scale, 'pred')})"
    t.emit(f"M.need_whole_warps(T, {t.here})")
    # Variables are bound now: a late product must not see what they mean in another turn of a loop.
    bound = ", ".join(f"{one}={one}" for one in dict.fromkeys(re.findall(r"\bv\d+\b", f"{names} {addend}")))
    text = f"np.matmul({names[0]}, {names[1]}.transpose(0, 2, 1)){addend}"
    t.keep_matrix(to, f"M.products.start(lambda {bound}: {text})", "registers_of_product")
