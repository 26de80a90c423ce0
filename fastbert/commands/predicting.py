"""The predict command: runs a trained model on new texts, questions or words."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.commands.adding import check_outputs
from fastbert.commands.bulk import is_folder, one_input, run_in_bulk
from fastbert.commands.options import form_of, how_to_show, names_of, read_options
from fastbert.data import read_texts
from fastbert.data.lines import arriving_lines, ending
from fastbert.data.tables import is_table, json_rows, read_table
from fastbert.errors import InputError
from fastbert.files.rows import ROWS, check_ending, line_of, write_rows
from fastbert.terminal import show_note

_NOT_IN_BULK = ("label_column", "skip_ragged", "choice_columns", "tag_column")  # of files with labels
Rows = list[dict[str, Any]]
Predict = Callable[[Sequence[Any]], Rows]  # one prediction for each input


def predict(args: argparse.Namespace) -> None:
    """Predicts with a trained model on new texts, questions or words."""
    from fastbert.finetuning.evaluation import PATTERNS, task_of_model

    folder = files.locate(args.model, PATTERNS, local_files_only=args.local_files_only)
    kind = args.task or task_of_model(folder)
    if is_folder(args, has_marks=True):
        _predict_in_bulk(args, kind)
        return
    one_input(args)
    check_outputs([args.output], [args.input, args.model])
    if kind == "choice" and args.input == "-":
        raise InputError("choice does not read standard input: name a file")
    form = "" if args.output is None else check_ending(args.output, _endings(args, kind), f"predictions of {kind}")
    with ExitStack() as stack:
        part = None if args.output is None else stack.enter_context(files.replacing(args.output))
        rows: Rows = []
        for found in _predictions(args, folder, kind):
            if part is None:
                sys.stdout.write("".join(map(line_of, found)))
                sys.stdout.flush()
            else:
                rows += found
        if part is not None and form == ".json":
            part.write_text(json.dumps({row["id"]: row["answer"] for row in rows}, ensure_ascii=False) + "\n", encoding="utf-8")
        elif part is not None:
            write_rows(part, rows, form)
    if args.output is not None:
        show_note(f"{len(rows):,} predictions -> {args.output}")


def _predict_in_bulk(args: argparse.Namespace, kind: str) -> None:
    from fastbert.bulk import Predict
    from fastbert.bulk.inputs import find_inputs
    from fastbert.data.layouts import find_layout

    texts: tuple[str, ...] = ("text",)
    how = read_options(args)
    ignored = [name for name in _NOT_IN_BULK if vars(args)[name] not in (None, False)]
    ignored += ["word_column"] if args.word_column != 1 else []
    if ignored:
        raise InputError(
            f"{ignored[0]} = {vars(args)[ignored[0]]!r} is not for a folder as output: name a file, or leave it out"
        )
    found = find_inputs(args.input, Path(args.output).expanduser())
    first = found[0]
    lines = next((path for path in found if not is_table(path)), None)
    if lines is not None and kind == "ner" and not _is_raw(str(lines)):
        raise InputError(f"{lines}: tagged words go into one file, such as -o predictions.conll; a folder takes texts")
    columns = [name for name in ("text_column", "pair_column", "layout") if vars(args)[name] is not None]
    if columns and (lines is not None or kind == "qa"):
        why = f"{lines} is read line by line" if lines is not None else "questions are read from question and context"
        raise InputError(f"{columns[0]} = {vars(args)[columns[0]]!r} names columns of a table; {why}")
    if kind == "qa":
        texts = ("question", "context")
    elif kind == "ner" and is_table(first):
        texts = ("text" if how.text is None else how.text,)
    elif is_table(first):
        layout = find_layout(first, how.layout, how.text, how.pair, "", (), False, how.form)
        texts = (layout.text, layout.pair) if layout.pair else (layout.text,)
    given = (args.model, args.device, args.dtype, args.local_files_only)
    run_in_bulk(args, Predict(*given, kind=kind, how=how_to_predict(args)), texts, how.keep)


def _endings(args: argparse.Namespace, kind: str) -> tuple[str, ...]:
    """The endings of files that predictions of a kind can be written to."""
    if kind == "qa" and args.top_k in (None, 1):
        return (*ROWS, ".json")
    return (*ROWS, ".conll") if kind == "ner" and not _is_raw(args.input) else ROWS


def _predictions(args: argparse.Namespace, folder: Path, kind: str) -> Iterator[Rows]:
    """The predictions of a whole file; of standard input those for the lines that have arrived, and so on to its end."""
    run = _predictor(args, folder, kind)
    if args.input != "-":
        inputs, marks = _inputs(args, kind)
        yield [{**mark, **row} for mark, row in zip(marks, run(inputs), strict=True)]
        return
    count = 0
    for lines in arriving_lines(args.encoding):
        inputs, marks = _of_lines(args, kind, lines, count)
        count += len(lines)
        yield [{**mark, **row} for mark, row in zip(marks, run(inputs), strict=True)]


def _predictor(args: argparse.Namespace, folder: Path, kind: str) -> Predict:
    """A function that runs the model on inputs: texts, pairs, questions with contexts, texts with choices, lists of words."""
    from fastbert.tasks.predicting import open_predictor, shown

    show: Any = how_to_show(args) if args.progress or args.input != "-" else False
    words = kind == "ner" and not _is_raw(args.input)
    predictor = open_predictor(kind, folder, how_to_predict(args), words)

    def given(value: Any) -> dict[str, Any]:
        if kind == "choice":
            return {}  # its predictions have the text themselves
        if kind == "qa":
            return {"question": value[0]}
        return {"words": value} if words else shown(value)

    return lambda inputs: [{**given(value), **row} for value, row in zip(inputs, predictor.run(inputs, show), strict=True)]


def how_to_predict(args: argparse.Namespace) -> Any:
    """The options of predictions."""
    from fastbert.tasks.predicting import HowToPredict

    return HowToPredict(
        args.device,
        args.dtype,
        args.top_k,
        args.overlong,
        args.aggregation,
        names_of(args.candidates),
        args.template,
        args.null_threshold,
    )


def _inputs(args: argparse.Namespace, kind: str) -> tuple[list[Any], Rows]:
    """The inputs of a file, and the row, id and kept columns of each."""
    from fastbert.finetuning.marks import columns_to_keep, marks_of
    from fastbert.finetuning.reading import read_split

    how = read_options(args)
    if kind in ("qa", "choice") or (kind == "ner" and not _is_raw(args.input)):
        split = read_split(kind, args.input, "input", how, labelled=False)
        if kind == "qa":
            marks = [{**mark, "id": q.id} for mark, q in zip(split.marks, split.examples, strict=True)]
            return [(q.question, q.context) for q in split.examples], marks
        if kind == "choice":
            return [(e.text, e.choices) for e in split.examples], split.marks
        return [list(sentence.words) for sentence in split.examples], split.marks
    if not is_table(args.input):
        columns = (how.id, how.text, how.pair, how.label)
        if how.keep or any(column is not None for column in columns):
            raise InputError(
                f"--id, --keep, --text-column, --pair-column and --label-column name columns of a table; {args.input} is read "
                "line by line"
            )
        texts = list(read_texts(args.input, form=form_of(args)))
        return texts, [{"row": row} for row in range(1, len(texts) + 1)]
    if kind == "ner":
        column = "text" if args.text_column is None else args.text_column
        table = read_table(
            args.input, list(dict.fromkeys([column, *columns_to_keep(how.id, how.keep, column)])), form=form_of(args)
        )
        return table.values[column], marks_of(table, how.id, how.keep)
    split = read_split("classify", args.input, "input", replace(how, label=how.label or ""), labelled=False)
    marks = split.marks
    if how.label:
        marks = [{**mark, "gold": e.label} for mark, e in zip(marks, split.examples, strict=True)]
    return [e.text if e.pair is None else (e.text, e.pair) for e in split.examples], marks


def _of_lines(args: argparse.Namespace, kind: str, lines: list[str], before: int) -> tuple[list[Any], Rows]:
    """The inputs in lines of standard input: texts; pairs with a tab between; questions with contexts as JSON."""
    numbers = range(before + 1, before + len(lines) + 1)
    if kind == "qa":
        from fastbert.data.squad import question_of_line

        path, inputs, marks = Path("standard input"), [], []
        for number, line in zip(numbers, lines, strict=True):
            for _, value in json_rows([line], path, number):
                question = question_of_line(value, path, number, number)
                inputs.append((question.question, question.context))
                marks.append({"row": number, "id": question.id})
        return inputs, marks
    if kind not in ("nli", "next-sentence"):
        return list(lines), [{"row": number} for number in numbers]
    between = form_of(args).between("-")
    pairs = [tuple(line.split(between)) for line in lines]
    for number, pair in zip(numbers, pairs, strict=True):
        if len(pair) != 2:
            raise InputError(f"standard input, line {number}: {len(pair)} texts; expected two, with {between!r} between them")
    return pairs, [{"row": number} for number in numbers]


def _is_raw(path: str) -> bool:
    """Whether a file holds raw texts, not words."""
    return path == "-" or ending(path) == ".txt" or is_table(path)
