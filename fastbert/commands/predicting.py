"""The predict command: runs a trained model on new texts, questions or words."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastbert import files
from fastbert.commands.adding import check_outputs
from fastbert.commands.options import form_of, names_of, read_options
from fastbert.data import read_texts
from fastbert.data.lines import ending
from fastbert.data.tables import is_table
from fastbert.errors import InputError


def predict(args: argparse.Namespace) -> None:
    """Predicts with a trained model on new texts, questions or words."""
    from fastbert.finetuning.evaluation import PATTERNS, task_of_model

    check_outputs([args.output], [args.input, args.model])
    folder = files.locate(args.model, PATTERNS, local_files_only=args.local_files_only)
    kind = args.task or task_of_model(folder)
    squad_form = kind == "qa" and args.output is not None and args.output.endswith(".json")
    with ExitStack() as stack:
        part = None if args.output is None else stack.enter_context(files.replacing(args.output))
        rows = _predictions(args, folder, kind)
        if squad_form:
            text = json.dumps({row["id"]: row["answer"] for row in rows}, ensure_ascii=False) + "\n"
        else:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if part is None:
            sys.stdout.write(text)
        else:
            part.write_text(text, encoding="utf-8")
    if args.output is not None:
        print(f"{len(rows):,} predictions -> {args.output}", file=sys.stderr)


def _predictions(args: argparse.Namespace, folder: Path, kind: str) -> list[dict[str, Any]]:
    from fastbert import tasks
    from fastbert.finetuning.reading import read_split
    from fastbert.tasks.classifier import several_labels

    place = {"device": args.device, "dtype": args.dtype}
    show = True if args.progress else None
    if kind == "ner":
        return _tagged(args, tasks.TokenTagger.from_pretrained(folder, **place), show)
    top_k = 1 if args.top_k is None else args.top_k
    if args.input == "-" and kind in ("qa", "choice"):
        raise InputError(f"{kind} does not read standard input: name a file of {'SQuAD JSON' if kind == 'qa' else 'choices'}")
    if kind == "qa":
        answerer = tasks.QuestionAnswerer.from_pretrained(folder, **place)
        if args.null_threshold is not None:
            answerer.null_threshold = args.null_threshold
        questions = read_split("qa", args.input, "input", read_options(args), labelled=False).examples
        pairs = [(question.question, question.context) for question in questions]
        found = answerer.predict(pairs, top_k, show_progress=show)
        return [
            {"id": q.id, **(row if isinstance(row, dict) else {"answers": row})}
            for q, row in zip(questions, found, strict=True)
        ]
    if kind == "choice":
        examples = read_split("choice", args.input, "input", read_options(args), labelled=False).examples
        chooser = tasks.MultipleChoice.from_pretrained(folder, **place)
        return chooser.predict([(e.text, e.choices) for e in examples], overlong=args.overlong, show_progress=show)
    inputs = list(_texts(args))
    if kind == "next-sentence":
        return tasks.NextSentence.from_pretrained(folder, **place).predict(inputs)
    if kind == "zero-shot":
        labels = names_of(args.candidates)
        if labels is None:
            raise InputError("zero-shot classification needs --candidates: labels, separated by commas")
        model = tasks.NLI.from_pretrained(folder, **place)
        return model.zero_shot(inputs, labels, hypothesis_template=args.template, show_progress=show)
    task: Any = (tasks.NLI if kind == "nli" else tasks.Classifier).from_pretrained(folder, **place)
    if task.problem_type == "multi_label_classification" and args.top_k is None:
        scores = task.probabilities(task.logits(task.frame(inputs, args.overlong), show_progress=show))
        return [several_labels(task.labels, row) for row in scores.tolist()]
    rows = task.predict(inputs, top_k, overlong=args.overlong, show_progress=show)
    return [row if isinstance(row, dict) else {"labels": row} for row in rows]


def _tagged(args: argparse.Namespace, tagger: Any, show: bool | None) -> list[dict[str, Any]]:
    """Predicts entities in raw texts (.txt, tables, standard input), or tags of words (CoNLL files)."""
    path = Path(args.input)
    if args.input == "-" or ending(path) == ".txt" or is_table(path):
        texts = list(read_texts(args.input, args.text_column, form_of(args)))
        found = tagger.predict(texts, args.aggregation, show_progress=show)
        return [{"text": text, "entities": entities} for text, entities in zip(texts, found, strict=True)]
    from fastbert.finetuning.reading import read_split

    sentences = read_split("ner", path, "input", read_options(args), labelled=False).examples
    words = [list(sentence.words) for sentence in sentences]
    return [{"words": w, "tags": tags} for w, tags in zip(words, tagger.tag(words, show_progress=show), strict=True)]


def _texts(args: argparse.Namespace) -> Iterator[Any]:
    """Reads texts or pairs from lines, or from the columns of a table."""
    from fastbert.finetuning.reading import read_split

    if args.input == "-" or not is_table(args.input):
        yield from read_texts(args.input, form=form_of(args))
        return
    how = replace(read_options(args), label="" if args.label_column is None else args.label_column)
    for example in read_split("classify", args.input, "input", how, labelled=False).examples:
        yield example.text if example.pair is None else (example.text, example.pair)
