"""Runs the recipes of `quality.py` with transformers: its Trainer, its collators, and dynamic padding."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.tasks import Recipe, Splits
from fastbert.data.conll import TaggedSentence
from fastbert.packing.batch import IGNORE

Predictions = list[Any]


def train_and_predict(
    recipe: Recipe, splits: Splits, model: Path, seed: int, *, grouped: bool = False, evaluate: bool = True
) -> tuple[Predictions, float]:
    """Trains, keeps the best epoch on dev if there is a dev set, and predicts the test set.

    Args:
        recipe, splits: the task.
        model: a folder.
        seed: the seed of all random numbers.
        grouped: whether batches hold texts of similar length, transformers' best padding strategy.
        evaluate: whether to evaluate and predict; otherwise only the time is measured.

    Returns:
        Predictions (labels, numbers, tag lists, or start and end logits), and seconds of training without evaluation.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    names = _names(recipe, splits)
    net = _model(recipe, model, names)
    sets = {name: _dataset(recipe, part, tokenizer, names) for name, part in vars(splits).items() if part is not None}
    collate: Any = transformers.DataCollatorWithPadding(tokenizer)
    if recipe.kind == "ner":
        collate = transformers.DataCollatorForTokenClassification(tokenizer)
    chosen = "dev" in sets and evaluate
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=recipe.lr,
            warmup_steps=0.1,
            weight_decay=0.01,
            adam_epsilon=1e-6,
            seed=seed,
            train_sampling_strategy="group_by_length" if grouped else "random",
            eval_strategy="epoch" if chosen else "no",
            save_strategy="epoch" if chosen else "no",
            save_total_limit=1,
            load_best_model_at_end=chosen,
            metric_for_best_model="score" if chosen else None,
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
        )
        clock = _Clock()
        trainer = transformers.Trainer(
            model=net,
            args=arguments,
            data_collator=collate,
            train_dataset=sets["train"],
            eval_dataset=sets.get("dev"),
            processing_class=tokenizer,
            compute_metrics=_scorer(recipe, splits, names) if chosen else None,
            callbacks=[clock.callback()],
        )
        trainer.train()
        if not evaluate:
            return [], clock.seconds
        trainer.compute_metrics = None  # it scores against dev
        found = trainer.predict(sets["test"])
    return _readable(recipe, found, splits.test, tokenizer, names), clock.seconds


class _Clock:
    """Measures the seconds of the training epochs, without evaluation."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def callback(self) -> Any:
        import transformers

        clock = self

        class Callback(transformers.TrainerCallback):
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                clock._began = time.perf_counter()

            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                clock.seconds += time.perf_counter() - clock._began

        return Callback()


def _names(recipe: Recipe, splits: Splits) -> list[str]:
    if recipe.kind in ("classify", "nli"):
        return sorted({example.label for example in splits.train})
    if recipe.kind == "ner":
        return sorted({tag for sentence in splits.train for tag in sentence.tags})
    return []


def _model(recipe: Recipe, folder: Path, names: list[str]) -> Any:
    import transformers

    kind, labels = {
        "classify": ("AutoModelForSequenceClassification", len(names)),
        "nli": ("AutoModelForSequenceClassification", len(names)),
        "regress": ("AutoModelForSequenceClassification", 1),
        "ner": ("AutoModelForTokenClassification", len(names)),
        "qa": ("AutoModelForQuestionAnswering", 2),
    }[recipe.kind]
    return getattr(transformers, kind).from_pretrained(str(folder), num_labels=labels)


class _Rows(list[Any]):
    """A data set in memory, with the attribute `column_names` that the Trainer expects."""

    column_names: list[str] | None = None


def _dataset(recipe: Recipe, examples: list[Any], tokenizer: Any, names: list[str]) -> _Rows:
    limit = recipe.max_length
    if recipe.kind == "ner":
        return _Rows(_tagged(sentence, tokenizer, names, limit) for sentence in examples)
    if recipe.kind == "qa":
        return _questions(examples, tokenizer, limit)
    pairs = None if examples[0].pair is None else [example.pair for example in examples]
    rows = tokenizer([example.text for example in examples], pairs, truncation=True, max_length=limit)
    labels = [example.label if recipe.kind == "regress" else names.index(example.label) for example in examples]
    return _Rows(
        {**{name: column[i] for name, column in rows.items()}, "labels": label, "length": len(rows["input_ids"][i])}
        for i, label in enumerate(labels)
    )


def _tagged(sentence: TaggedSentence, tokenizer: Any, names: list[str], limit: int) -> dict[str, Any]:
    row = tokenizer(list(sentence.words), is_split_into_words=True, truncation=True, max_length=limit)
    labels, before = [], None
    known = {name: i for i, name in enumerate(names)}
    for word in row.word_ids():
        first = word is not None and word != before
        labels.append(known.get(sentence.tags[word], 0) if first and sentence.tags else IGNORE)
        before = word
    return {**row, "labels": labels}


def _questions(examples: list[Any], tokenizer: Any, limit: int) -> _Rows:
    """One row per window; windows overlap by 128 tokens, as in transformers' example script."""
    rows = _Rows()
    for example in examples:
        made = _windows(example, tokenizer, limit)
        answer = next((a for a in example.answers if a.start >= 0), None)
        for i, ids in enumerate(made["input_ids"]):
            sequence, offsets = made.sequence_ids(i), made["offset_mapping"][i]
            context = [column for column in range(len(ids)) if sequence[column] == 1]
            start = end = 0
            if answer is not None:
                first, last = answer.start, answer.start + len(answer.text)
                inside = [column for column in context if offsets[column][0] < last and offsets[column][1] > first]
                if inside and offsets[context[0]][0] <= first and offsets[context[-1]][1] >= last:
                    start, end = inside[0], inside[-1]
            row = {"input_ids": ids, "token_type_ids": made["token_type_ids"][i], "attention_mask": [1] * len(ids)}
            rows.append({**row, "start_positions": start, "end_positions": end, "length": len(ids)})
    return rows


def _windows(example: Any, tokenizer: Any, limit: int) -> Any:
    return tokenizer(
        example.question.strip(),
        example.context,
        truncation="only_second",
        max_length=limit,
        stride=128,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def _scorer(recipe: Recipe, splits: Splits, names: list[str]) -> Any:
    from benchmarks.quality.tasks import score

    def compute(found: Any) -> dict[str, float]:
        predictions = _readable(recipe, found, splits.dev or [], None, names)
        return {"score": score(recipe, splits.dev or [], predictions)[recipe.metrics[0]]}

    return compute


def _readable(recipe: Recipe, found: Any, examples: list[Any], tokenizer: Any, names: list[str]) -> Predictions:
    """Converts the Trainer's predictions to the form that `score` takes."""
    logits, labels = found.predictions, found.label_ids
    if recipe.kind == "regress":
        return [float(value) for value in logits.reshape(-1)]
    if recipe.kind == "qa":
        return _answers(logits, examples, tokenizer, recipe.max_length)
    if recipe.kind == "ner":
        found = [[names[i] for i in row[marks != IGNORE].argmax(-1)] for row, marks in zip(logits, labels, strict=True)]
        return [[*tags, *["O"] * (len(s.words) - len(tags))] for tags, s in zip(found, examples, strict=True)]
    return [names[i] for i in np.argmax(logits, axis=-1)]


def _answers(logits: Any, examples: list[Any], tokenizer: Any, limit: int) -> Predictions:
    """The best answer to each question, chosen by fastbert's own rules."""
    from fastbert.tasks.answers import ScoredWindow, best_answers

    starts, ends = logits
    found, row = [], 0
    for example in examples:
        made = _windows(example, tokenizer, limit)
        windows = []
        for i in range(len(made["input_ids"])):
            context = [column for column, sequence in enumerate(made.sequence_ids(i)) if sequence == 1]
            offsets = [tuple(made["offset_mapping"][i][column]) for column in context]
            start, end = (part[row, context].tolist() for part in (starts, ends))
            windows.append(ScoredWindow(start, end, float(starts[row, 0] + ends[row, 0]), offsets))
            row += 1
        found.append(best_answers(windows, example.context)[0].text)
    return found
