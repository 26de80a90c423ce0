"""Text between two marks of a page, which is made from results: it is replaced, the rest of the page stays."""

from __future__ import annotations

Marks = tuple[str, str]


def marked(marks: Marks, content: str) -> str:
    """Content between its marks."""
    begin, end = marks
    return f"{begin}\n\n{content}\n\n{end}"


def put(page: str, marks: Marks, block: str) -> str:
    """The page with a block, marks included, in the place of the one that has these marks."""
    begin, end = marks
    before, rest = page.split(begin)
    return before + block + rest.split(end)[1]
