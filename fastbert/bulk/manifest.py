"""The folder of a bulk job: what it is made of stands in its manifest, so that a second start goes on with the first.

manifest.json        job, model, settings, inputs, and the rows of every part; "complete" once all are there
part-00000.parquet   rows of the output, whole or not there at all
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.bulk.inputs import state_of
from fastbert.bulk.jobs import Job
from fastbert.bulk.plan import Part, Plan
from fastbert.bulk.reading import check_unchanged
from fastbert.bulk.rows import Columns
from fastbert.bulk.writing import is_there, name_of, rows_of_file
from fastbert.data.lines import Form
from fastbert.errors import CheckpointError, InputError

MANIFEST = "_manifest.json"  # readers of a folder of Parquet files pass over names that begin so
_VERSION = 1
_ADVICE = "give the same as before, or name another folder"


@dataclass(frozen=True)
class Manifest:
    """What a folder is made of.

    Attributes:
        work: job, model, settings, columns and form: what must be the same at a second start.
        settled: what the job decided once for all parts.
        plan: the inputs and the parts.
        complete: whether all parts are there.
    """

    work: dict[str, Any]
    settled: dict[str, Any]
    plan: Plan
    complete: bool = False

    @property
    def form(self) -> str:
        """The form of the parts."""
        return str(self.work["format"])

    def missing(self, folder: Path) -> list[Part]:
        """The parts that are not there yet."""
        return [part for part in self.plan.parts if not is_there(folder, part, self.form)]

    def write(self, folder: Path) -> None:
        """Writes the manifest."""
        plan = self.plan.to_json()
        summary = {"rows": self.plan.rows, "skipped": self.plan.skipped}
        content = {"version": _VERSION, "complete": self.complete, **self.work, **summary, "settled": self.settled, **plan}
        with files.replacing(folder / MANIFEST, durable=True) as unfinished:
            unfinished.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")


def work_of(job: Job, columns: Columns, form: Form, part_rows: int, file_form: str) -> dict[str, Any]:
    """What must be the same whenever a folder is worked on."""
    return {
        "job": job.name,
        "model": {"name": job.model, "sha256": job.fingerprint},
        "settings": json.loads(json.dumps(job.settings)),
        "columns": json.loads(json.dumps(asdict(columns))),
        "reading": asdict(form),
        "part_rows": part_rows,
        "format": file_form,
    }


def open_manifest(
    folder: Path,
    work: Mapping[str, Any],
    inputs: Sequence[Path],
    make: Callable[[], tuple[dict[str, Any], Plan]],
) -> Manifest:
    """The manifest of a folder: a new one, or that of the start before, if this start would make the same.

    Args:
        folder: the output, which exists.
        work: see `work_of`.
        inputs: the files.
        make: gives what is settled and the plan, where the folder is new.

    Raises:
        InputError: the folder holds something else, or was made from other inputs, with another model or other settings.
    """
    if not (folder / MANIFEST).is_file():
        files.clear_leftovers(folder / MANIFEST)
        if not files.holds_nothing(folder):
            raise InputError(f"{folder} is not empty and has no {MANIFEST}: name a new folder")
        settled, plan = make()
        found = Manifest(dict(work), settled, plan)
        found.write(folder)
        return found
    found = read_manifest(folder)
    before = dict(found.work)
    overlong = before["settings"].get("overlong")
    if overlong == "error":  # no text was too long so far: the parts are the same, whatever is done with those that come
        before["settings"] = {**before["settings"], "overlong": work["settings"].get("overlong")}
    _check_same(folder, before, work)
    plan = _same_inputs(folder, found.plan, inputs)
    now = replace(found, work=before, plan=plan, complete=found.complete and not found.missing(folder))
    if now != found:
        now.write(folder)
    return now


def close_manifest(folder: Path, manifest: Manifest) -> None:
    """Checks all parts and inputs, and marks the folder as complete.

    Raises:
        InputError: a part that is damaged or has not as many rows as planned.
    """
    for part in manifest.plan.parts:
        path = folder / name_of(part, manifest.form)
        rows = rows_of_file(path)
        if rows != part.rows:
            raise InputError(
                f"{path} has {rows:,} rows in place of {part.rows:,}: remove it, and the same command makes it again"
            )
    for source in manifest.plan.sources:
        check_unchanged(source)
    if not manifest.complete:
        replace(manifest, complete=True).write(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    found = files.read_json(path)
    if found.get("version") != _VERSION:
        raise CheckpointError(f"{path} has version {found.get('version')!r}; this fastbert reads version {_VERSION}")
    keys = ("job", "model", "settings", "columns", "reading", "part_rows", "format")
    try:
        work = {key: found[key] for key in keys}
        if not all(isinstance(work[key], dict) for key in ("model", "settings", "columns", "reading")):
            raise TypeError("something in it is no object")
        return Manifest(work, found["settled"], Plan.of_json(found), bool(found["complete"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): name a new folder") from None


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in now.items():
        old = before[key]
        if key == "model":
            if old["sha256"] != value["sha256"]:
                raise InputError(f"{folder} was begun with another model, {old['name']}; now it is {value['name']}: {_ADVICE}")
        elif isinstance(value, dict):
            for name, inner in value.items():
                _check_equal(folder, name, old.get(name), inner)
        else:
            _check_equal(folder, key, old, value)


def _check_equal(folder: Path, name: str, old: Any, new: Any) -> None:
    if old == new:
        return
    before = f"without {name}" if old in (None, []) else f"with {name} = {old!r}"
    now = "without it" if new in (None, []) else f"with {name} = {new!r}"
    raise InputError(f"{folder} was begun {before}, and is now given {now}: {_ADVICE}")


def _same_inputs(folder: Path, plan: Plan, inputs: Sequence[Path]) -> Plan:
    """The plan, with the times of files that were touched and hold what they held."""
    before, now = [source.path for source in plan.sources], [str(path) for path in inputs]
    if before != now:
        new, gone = [path for path in now if path not in before], [path for path in before if path not in now]
        what = f"{new[0]} is new" if new else f"{gone[0]} is not among them" if gone else "their order is another"
        raise InputError(f"{folder} was begun with other inputs: {what}; {_ADVICE}")
    sources = []
    for source, path in zip(plan.sources, inputs, strict=True):
        size, modified = state_of(path)
        if (size, modified) != (source.size, source.modified) and (
            size != source.size or not source.sha256 or files.sha256(path) != source.sha256
        ):
            raise InputError(f"{path} has changed since {folder} was begun: name another folder")
        sources.append(replace(source, modified=modified))
    return replace(plan, sources=tuple(sources))
