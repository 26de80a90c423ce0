"""Decides the label names and their order, from the data, the user, or the trained head of a checkpoint.

Labels are matched by name and never by number. Reordering the same names does not change the name that is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fastbert.errors import InputError


def decide_labels(
    found: Iterable[str], wanted: Sequence[str] | None, known: Sequence[str] | None, new_head: bool, fixed: bool = False
) -> list[str]:
    """The label names in the order of the scores.

    Args:
        found: labels in the training data.
        wanted: labels named by the user, in that order; if all labels in the data are numbers, the names of 0, 1, ...
        known: labels of the checkpoint's trained head; None if it has none.
        new_head: ignore `known`.
        fixed: take the labels of the checkpoint, or `wanted` if its names differ from them, regardless of `found`.

    Raises:
        InputError: a wanted label without an example, a found label that is not wanted, or a checkpoint with other labels.
    """
    names = in_order(found)
    if fixed and known is not None:
        if wanted is not None and len(wanted) != len(known):
            raise InputError(f"labels names {len(wanted)} labels, the checkpoint has {len(known)}: {', '.join(known)}")
        return list(known if wanted is None or set(wanted) == set(known) else wanted)
    if wanted is not None:
        if len(set(wanted)) != len(wanted):
            raise InputError(f"labels = {', '.join(wanted)}: a name occurs twice")
        if not numbers_stand_for(names, wanted):
            missing = [name for name in wanted if name not in names]
            if missing:
                raise InputError(f"labels names {missing[0]!r}, and no training example has it; they have {', '.join(names)}")
            extra = [name for name in names if name not in wanted]
            if extra:
                raise InputError(f"the training examples have the label {extra[0]!r}, which is not among {', '.join(wanted)}")
        names = list(wanted)
    if known is None or new_head:
        if len(names) < 2:
            raise InputError(f"the training examples have a single label, {', '.join(names)}: there is nothing to learn")
        return names
    if set(names) == set(known):
        return names if wanted is not None else list(known)
    raise InputError(
        f"the checkpoint has a head for {len(known)} labels ({', '.join(known)}), the data have {len(names)} "
        f"({', '.join(names)}): they do not match by name; start a new head (new_head, --new-head), or name the labels alike"
    )


def numbers_stand_for(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the labels in the data are indices into the wanted names, none of which is itself a number."""
    return all(name.isdecimal() and int(name) < len(wanted) for name in names) and not any(name.isdecimal() for name in wanted)


def names_of_numbers(
    found: Iterable[str], labels: Sequence[str], wanted: Sequence[str] | None, fixed: bool
) -> Sequence[str] | None:
    """The names that the labels 0, 1, ... in the data stand for: `wanted`, in its order; None if the data have names.

    The order of a trained model's labels does not define what numbers in a data file mean, unless the labels are LABEL_0,
    LABEL_1, ...

    Args:
        found: labels in the data.
        labels: labels of the model.
        wanted, fixed: see `decide_labels`.

    Raises:
        InputError: the data have numbers whose names are unknown.
    """
    numbers = in_order(found)
    if not numbers_stand_for(numbers, labels):
        return None
    if wanted is not None or not fixed:
        return wanted
    if all(re.fullmatch(r"LABEL_\d+", name) for name in labels):
        return labels
    raise InputError(
        f"the examples have the numbers {', '.join(numbers)} for labels, the model has the names {', '.join(labels)}: "
        "name what 0, 1, ... stand for, in that order (labels, --labels)"
    )


def in_order(names: Iterable[str]) -> list[str]:
    """The distinct names in alphabetical order, or in numerical order if all are numbers."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)
