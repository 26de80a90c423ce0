"""Writes a part of the output whole: Parquet, .npy with JSON lines beside it, or JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastbert import files
from fastbert.bulk.jobs import Opened, Results
from fastbert.bulk.plan import Part, Plan
from fastbert.bulk.reading import PartRows
from fastbert.bulk.rows import Columns
from fastbert.errors import InputError
from fastbert.files.rows import line_of, need_pyarrow

FORMS = ("parquet", "npy", "jsonl")
_MARKS = ("file", "row")  # what names a row where no column does


def name_of(part: Part, form: str) -> str:
    """The file of a part; of .npy the one that is written last."""
    return f"part-{part.number:05d}.{form}"


def is_there(folder: Path, part: Part, form: str) -> bool:
    """Whether a part has been written."""
    path = folder / name_of(part, form)
    return path.is_file() and (form != "npy" or path.with_suffix(".jsonl").is_file())


def check_form(form: str) -> None:
    """Raises InputError for an unknown form, or where its library is not installed."""
    if form not in FORMS:
        raise InputError(f"format = {form!r} is not one of {', '.join(FORMS)}")
    if form == "parquet":
        need_pyarrow("write Parquet")


def check_columns(columns: Columns, own: tuple[str, ...]) -> None:
    """Checks that the columns that are kept leave the output its own.

    Raises:
        InputError: a column to keep has the name of one that the output has anyway.
    """
    taken = (*(_MARKS if columns.id is None else ("id",)), *own)
    for name in columns.keep:
        if name in taken and name != columns.id:
            raise InputError(f"keep = {name!r}: the output has a column {name!r} of its own")


def write_part(
    folder: Path, part: Part, plan: Plan, rows: PartRows, results: Results, columns: Columns, form: str, opened: Opened
) -> None:
    """Writes a part under its name, which it has only once it is whole."""
    marks = _marks(rows, columns)
    path = folder / name_of(part, form)
    if form == "parquet":
        with files.replacing(path, durable=True) as unfinished, unfinished.open("wb") as stream:
            _write_parquet(stream, plan, marks, results, columns, opened)
        return
    if form == "npy":
        (vectors,) = results.columns.values()
        _write_lines(path.with_suffix(".jsonl"), marks)
        with files.replacing(path, durable=True) as unfinished, unfinished.open("wb") as stream:
            np.save(stream, vectors)
        return
    _write_lines(path, {**marks, **results.columns})


def rows_of_file(path: Path) -> int:
    """How many rows a part's file holds.

    Raises:
        InputError: it is damaged.
    """
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_metadata

            return int(read_metadata(path).num_rows)
        if path.suffix == ".npy":
            count = len(np.load(path, mmap_mode="r"))
            beside = rows_of_file(path.with_suffix(".jsonl"))
            if beside != count:
                raise ValueError(f"{count} vectors, and {beside} lines in {path.with_suffix('.jsonl').name}")
            return count
        with path.open("rb") as stream:
            return sum(1 for _ in stream)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and the same command makes it again") from None


def _marks(rows: PartRows, columns: Columns) -> dict[str, list[Any]]:
    """What names each row, and what is kept of it, column by column."""
    others = dict(zip(columns.others, map(list, zip(*rows.others, strict=True)), strict=False))
    if columns.id is None:
        found: dict[str, list[Any]] = {"file": rows.files, "row": rows.rows}
    else:
        found = {"id": others[columns.id]}
    return found | {name: others[name] for name in columns.keep if name != columns.id}


def _write_parquet(
    stream: BinaryIO, plan: Plan, marks: Mapping[str, list[Any]], results: Results, columns: Columns, opened: Opened
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from fastbert.bulk.columns import to_arrow

    arrays, inputs = {}, [source.path for source in plan.sources if source.rows]
    for name, values in marks.items():
        column = columns.id if name == "id" and columns.id is not None else name
        kind = {"file": "string", "row": "int64"}[name] if columns.id is None and name in _MARKS else plan.types[column]
        arrays[name] = to_arrow(values, kind, column, inputs)
    arrays |= {name: opened.arrow(name, values) for name, values in results.columns.items()}
    table = pa.table(arrays)
    vectors = [f"{field.name}{'.list.element' * deep}" for field in table.schema if (deep := _depth_of_floats(field.type))]
    plain = [path for path in _leaves(table.schema) if path not in vectors]
    parquet.write_table(  # numbers of vectors hardly repeat: compressing them costs time and saves nothing
        table,
        stream,
        row_group_size=max(1, table.num_rows),
        use_dictionary=plain,
        write_statistics=plain,
        compression={**dict.fromkeys(plain, "snappy"), **dict.fromkeys(vectors, "none")},
    )


def _depth_of_floats(kind: Any) -> int:
    """How many lists lie around the numbers of a column of vectors of floats; 0 of any other column.

    Of whole numbers, which Parquet keeps in four bytes, a dictionary makes one byte each.
    """
    from pyarrow import types

    depth, fixed = 0, False
    while types.is_list(kind) or types.is_fixed_size_list(kind):
        depth, fixed, kind = depth + 1, types.is_fixed_size_list(kind), kind.value_type
    return depth if fixed and types.is_floating(kind) else 0


def _leaves(schema: Any) -> list[str]:
    """The paths of the columns of a Parquet file that hold the values of a schema."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.ParquetWriter(sink, schema).close()
    found = parquet.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(at).path for at in range(len(found))]


def _write_lines(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes columns as JSON lines."""
    lists = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    with files.replacing(path, durable=True) as unfinished, unfinished.open("wb") as stream:
        for row in zip(*lists, strict=True):
            stream.write(line_of(dict(zip(columns, row, strict=True))).encode())
