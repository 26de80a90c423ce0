"""Named entities and other word tags: the first piece of a word has the label, and there is one prediction per word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from fastbert.data.conll import TaggedSentence
from fastbert.data.tags import all_tags, convert, find_scheme, illegal, split
from fastbert.errors import InputError
from fastbert.finetuning.labels import decide_labels
from fastbert.finetuning.metrics import chosen_metrics, tag_metrics
from fastbert.finetuning.problems import FramedSplit, Prediction, Problem, Split
from fastbert.packing.batch import IGNORE
from fastbert.tasks.token_tagger import TokenTagger, frame_words, split_words


class Tagging(Problem):
    """Predicts a tag for each word."""

    head = "token"
    task_class = TokenTagger

    def __init__(self, kind: str, options: Any, tokenizer: Any, train: Split, others: Sequence[Split], checkpoint: Any) -> None:
        super().__init__(kind, options, tokenizer, train, others, checkpoint)
        self.metrics = chosen_metrics(kind, options.metrics)
        self.scheme = find_scheme([sentence.tags for sentence in train.examples])
        for part in [train, *others]:
            self._check_rules(part)
        found = {tag for sentence in train.examples for tag in sentence.tags}
        found = found if self.scheme is None else all_tags(found, self.scheme)
        self.labels = decide_labels(found, options.labels, checkpoint.labels, options.new_head, checkpoint.fixed)
        for part in [train, *others] if checkpoint.fixed else others:
            for number, sentence in enumerate(part.examples):
                unknown = sorted(set(sentence.tags or ()) - set(self.labels))
                if unknown:
                    raise InputError(
                        f"{part.where(number)}: the tag {unknown[0]!r} is not among those of the model: "
                        f"{', '.join(self.labels)}"
                    )

    def task(self, model: Any) -> Any:
        """A `TokenTagger` around the model."""
        return TokenTagger(model, self.tokenizer, max_length=self.options.max_length)

    def frame(self, split: Split) -> FramedSplit:
        """Rows of word pieces; long sentences are split into windows."""
        pieces = split_words(self.tokenizer, [sentence.words for sentence in split.examples], split.where)
        words = frame_words(self.tokenizer, pieces, max_length=self.max_length, place=split.where)
        return FramedSplit(split, words.framed, words)

    def targets(self, part: FramedSplit) -> list[Any]:
        """One target per window: a label for each token, IGNORE except at the first piece of a word."""
        known = {name: i for i, name in enumerate(self.labels)}
        labels = []
        for one, sentence in zip(part.inputs.pieces, part.split.examples, strict=True):
            row = [IGNORE] * len(one.ids)
            for at in one.first:
                row[at] = known[sentence.tags[one.words[at]]]
            labels.append(row)
        framed, found = part.framed, []
        for i, owner in enumerate(framed.owners):
            row = [IGNORE] * int(framed.lengths[i])
            first, count, column = int(framed.firsts[i]), int(framed.counts[i]), int(framed.columns[i])
            row[column : column + count] = labels[owner][first : first + count]
            found.append(row)
        return found

    def keywords(self, targets: Sequence[Any]) -> dict[str, Any]:
        """Tag indices, (T,)."""
        return {"labels": torch.tensor([tag for target in targets for tag in target])}

    def predict(self, task: Any, part: FramedSplit, batch_tokens: int) -> list[Prediction]:
        """The tags of words, and the gold tags."""
        tags = task.tags_of(part.inputs.pieces, task.probabilities(part.inputs, batch_tokens))
        return [
            {"words": list(sentence.words), "tags": found} | ({"gold": list(sentence.tags)} if sentence.tags else {})
            for sentence, found in zip(part.split.examples, tags, strict=True)
        ]

    def score(self, split: Split, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The chosen metrics of the predictions."""
        gold = [sentence.tags for sentence in split.examples]
        return tag_metrics(self.metrics, gold, [row["tags"] for row in predictions])

    def counts(self, part: Split) -> Counter[str]:
        """Numbers of spans of each kind, or of words with each tag."""
        tags = [tag for sentence in part.examples for tag in sentence.tags or ()]
        if self.scheme is None:
            return Counter(tags)
        return Counter(split(tag)[1] for tag in tags if split(tag)[0] in ("BSU" if self.scheme != "IOB1" else "BI"))

    def _check_rules(self, part: Split) -> None:
        """Notes tags that break the rules of their scheme, and repairs them if `fix_bio` is set."""
        if self.scheme is None:
            return
        wrong = [(number, illegal(s.tags, self.scheme)) for number, s in enumerate(part.examples) if s.tags]
        wrong = [(number, places) for number, places in wrong if places]
        if not wrong:
            return
        total = sum(len(places) for _, places in wrong)
        number, places = wrong[0]
        example = f"{part.where(number)}, word {places[0] + 1}: {part.examples[number].tags[places[0]]!r}"
        done = "mended" if self.options.fix_bio else "kept as they are; fix_bio (--fix-bio) mends them"
        part.notes.append(f"{total} tags in {len(wrong)} sentences break the rules of {self.scheme} ({example}): {done}")
        if self.options.fix_bio:
            for number, _ in wrong:
                s = part.examples[number]
                part.examples[number] = TaggedSentence(s.words, tuple(convert(s.tags, self.scheme)), s.line)
