"""Word tags and the spans they encode: reads, writes, converts, checks and repairs IOB1, IOB2, IOBES and BILOU.

IOB2   B- opens every span, I- continues it     IOBES  as IOB2, with E- at the last word and S- for a single word
IOB1   I- throughout; B- only where two spans   BILOU  as IOBES, with L- and U- for E- and S-
       of one kind touch
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastbert.errors import InputError

SCHEMES = ("IOB1", "IOB2", "IOBES", "BILOU")
OUTSIDE = "O"
_LAST, _SINGLE = {"IOBES": "E", "BILOU": "L"}, {"IOBES": "S", "BILOU": "U"}


class Span(NamedTuple):
    """A span of words, `start` to `end` - 1, that form one entity."""

    kind: str
    start: int
    end: int


def spans(tags: Sequence[str]) -> list[Span]:
    """Reads the spans from tags of any scheme, in order; tags that break the rules are read leniently.

    A tag that cannot continue the span before it starts a new one.
    """
    found: list[Span] = []
    kind, start, ended = "", 0, True
    for at, tag in enumerate([*tags, OUTSIDE]):
        prefix, name = split(tag)
        goes_on = prefix in "IEL" and name == kind and not ended
        if not goes_on and kind:
            found.append(Span(kind, start, at))
            kind = ""
        if not goes_on and prefix != OUTSIDE:
            kind, start = name, at
        ended = prefix in "ELSU"
    return found


def write_tags(found: Iterable[Span], length: int, scheme: str) -> list[str]:
    """The tags of `length` words, from spans that do not overlap."""
    if scheme not in SCHEMES:
        raise InputError(f"scheme = {scheme!r} is not one of {', '.join(SCHEMES)}")
    tags = [OUTSIDE] * length
    before = Span("", 0, 0)
    for span in found:
        kind, start, end = span
        touches = before.end == start and before.kind == kind
        tags[start:end] = [f"I-{kind}"] * (end - start)
        tags[start] = f"{'I' if scheme == 'IOB1' and not touches else 'B'}-{kind}"
        if scheme in _LAST:
            tags[end - 1] = f"{_LAST[scheme] if end - start > 1 else _SINGLE[scheme]}-{kind}"
        before = span
    return tags


def convert(tags: Sequence[str], scheme: str) -> list[str]:
    """Converts tags to a scheme; tags that break the rules are repaired in the process."""
    return write_tags(spans(tags), len(tags), scheme)


def illegal(tags: Sequence[str], scheme: str) -> list[int]:
    """The indices of tags that break the rules of a scheme."""
    return [at for at, (given, right) in enumerate(zip(tags, convert(tags, scheme), strict=True)) if given != right]


def find_scheme(sentences: Sequence[Sequence[str]]) -> str | None:
    """The scheme that the tags of some sentences follow most closely; None if the tags are not spans ("NOUN", "VERB")."""
    kinds = {tag for tags in sentences for tag in tags}
    prefixes = {tag[:1] for tag in kinds if tag != OUTSIDE}
    if not all(tag == OUTSIDE or (tag[1:2] == "-" and tag[0] in "BIESLU") for tag in kinds):
        return None
    if prefixes & set("LU"):
        return "BILOU"
    if prefixes & set("ES"):
        return "IOBES"
    errors = {scheme: sum(len(illegal(tags, scheme)) for tags in sentences) for scheme in ("IOB2", "IOB1")}
    return min(errors, key=errors.__getitem__)


def all_tags(tags: Iterable[str], scheme: str) -> set[str]:
    """The given tags, completed with all tags of the scheme for the same kinds.

    A small data set may lack, for instance, the inside tag of a rare entity.
    """
    known = set(tags)
    kinds = {split(tag)[1] for tag in known if tag != OUTSIDE}
    prefixes = {"IOBES": "BIES", "BILOU": "BILU"}.get(scheme, "BI")
    return known | {f"{prefix}-{kind}" for kind in kinds for prefix in prefixes} | {OUTSIDE}


def split(tag: str) -> tuple[str, str]:
    """Splits a tag into prefix and kind; a tag without a prefix counts as I-."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if tag[1:2] == "-" and tag[0] in "BIESLU":
        return tag[0], tag[2:]
    return "I", tag
