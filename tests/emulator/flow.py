"""Data flow over basic blocks: registers read and written, where ways join again, what a warp-group product still owns."""

from __future__ import annotations

from emulator.ptx import Exit, Instruction, Program, is_register, leaves

_GROUPS_KEPT = 9  # of products that are not waited for; more than any kernel has in flight


def ways(found: Exit) -> list[int]:
    """The blocks that may follow; -1 is the end."""
    if found.kind == "if":
        return [found.target, found.after]
    return {"fall": [found.after], "goto": [found.target], "ifret": [-1, found.after]}.get(found.kind, [-1])


def joins(exits: list[Exit]) -> list[int]:
    """For each block the nearest one that every way from it passes, its immediate post-dominator; -1 is the end."""
    count = len(exits)
    behind = [{*range(-1, count)} for _ in exits]
    changed = True
    while changed:
        changed = False
        for i in reversed(range(count)):
            following = ({-1} if way < 0 or way >= count else behind[way] for way in ways(exits[i]))
            found = set.intersection(*following) | {i}
            changed |= found != behind[i]
            behind[i] = found
    nearest = []
    for i, found in enumerate(behind):
        others = found - {i}
        nearest.append(next((j for j in others if j >= 0 and others <= behind[j] | {-1}), -1))
    return nearest


State = list[tuple[frozenset[str], frozenset[str]]]  # accumulators and A registers of each group, the open one last


def registers_in_flight(program: Program) -> list[tuple[int, str]]:
    """Instructions that touch the accumulator, or write an operand, of a product no wait has finished: (place, register).

    Places count the instructions of all blocks in order.
    """
    first, count = [], 0
    for block in program.blocks:
        first.append(count)
        count += len(block)
    found: set[tuple[int, str]] = set()
    states: dict[int, State] = {0: [(frozenset(), frozenset())]}
    todo = [0]
    while todo:
        number = todo.pop()
        state = states[number]
        for i, instruction in enumerate(program.blocks[number]):
            state, wrong = _after(instruction, state)
            found |= {(first[number] + i, register) for register in wrong}
        for way in ways(program.exits[number]):
            if not 0 <= way < len(program.blocks):
                continue
            merged = _merged(states.get(way), state)
            if merged != states.get(way):
                states[way] = merged
                todo.append(way)
    return sorted(found)


def _after(instruction: Instruction, state: State) -> tuple[State, set[str]]:
    """The state behind an instruction, and the registers in flight that it touches wrongly."""
    if instruction.opcode != "wgmma":
        reads, writes = instruction.registers
        wrong = {r for owned, _ in state for r in reads if r in owned}
        return state, wrong | {r for owned, operands in state for r in writes if r in owned or r in operands}
    what = instruction.parts[1]
    if what == "mma_async":
        owned = frozenset(r for r in leaves(instruction.operands[0]) if is_register(r))
        left = instruction.operands[1]
        operands = frozenset(r for r in leaves(left) if is_register(r)) if isinstance(left, list) else frozenset()
        return [*state[:-1], (state[-1][0] | owned, state[-1][1] | operands)], set()
    if what == "commit_group":
        return [*state, (frozenset(), frozenset())][-_GROUPS_KEPT:], set()
    if what == "wait_group" and instruction.operands[0] < len(state) - 1:
        return state[len(state) - 1 - instruction.operands[0] :], set()
    return state, set()


def _merged(old: State | None, new: State) -> State:
    if old is None:
        return new
    size, empty = max(len(old), len(new)), (frozenset[str](), frozenset[str]())
    pairs = zip([empty] * (size - len(old)) + old, [empty] * (size - len(new)) + new, strict=True)
    return [(a[0] | b[0], a[1] | b[1]) for a, b in pairs]
