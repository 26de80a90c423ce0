"""Rows of Parquet files, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastbert.errors import InputError
from fastbert.files.rows import need_pyarrow

_AT_ONCE = 4096  # rows that are turned into Python values together


def is_parquet(path: str | Path) -> bool:
    """Whether a file is Parquet, judged by its ending.

    Raises:
        InputError: it is Parquet, but packed.
    """
    path = Path(path)
    if path.suffix.lower() == ".gz" and Path(path.stem).suffix.lower() == ".parquet":
        raise InputError(f"{path}: Parquet is compressed inside; unpack the file")
    return path.suffix.lower() == ".parquet"


def parquet_rows(path: Path, columns: Sequence[str], start: int = 0) -> Iterator[tuple[Any, ...]]:
    """The values of columns, row by row, from a row on (counted from 0). Row groups before it are not read.

    Raises:
        InputError: a file that cannot be read, or a missing column; the message lists those present.
    """
    from pyarrow import ArrowException

    file = _opened(path)
    names = file.schema_arrow.names
    for column in columns:
        if names.count(column) != 1:
            what = f"no column {column!r}" if column not in names else f"{names.count(column)} columns {column!r}"
            raise InputError(f"{path} has {what}; it has {', '.join(names)}")
    group, before = 0, 0
    while group < file.num_row_groups and before + file.metadata.row_group(group).num_rows <= start:
        before += file.metadata.row_group(group).num_rows
        group += 1
    skipped = start - before
    try:
        for batch in file.iter_batches(_AT_ONCE, range(group, file.num_row_groups), columns=list(columns)):
            if skipped >= batch.num_rows:
                skipped -= batch.num_rows
                continue
            part = batch.slice(skipped)
            skipped = 0
            yield from zip(*(part.column(name).to_pylist() for name in columns), strict=True)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    finally:
        file.close()


def parquet_types(path: Path) -> dict[str, Any]:
    """The columns of a file with their Arrow types, in order.

    Raises:
        InputError: a file that cannot be read.
    """
    with _opened(path) as file:
        return {field.name: field.type for field in file.schema_arrow}


def _opened(path: Path) -> Any:
    need_pyarrow(f"read {path}")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ArrowException as error:
        raise InputError(f"cannot read {path}: {error}") from None
