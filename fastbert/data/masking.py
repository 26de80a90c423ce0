"""Masking: which tokens of an example are predicted, and what replaces them. Paper, section 3.1, task 1, and appendix A.1.

15 % of the tokens are chosen; of those, 80 % become [MASK], 10 % become a random word and 10 % stay. Special tokens are never
chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastbert.choices import RANDOM_WORDS, SELECTIONS
from fastbert.errors import InputError
from fastbert.text.tokenizer import BertTokenizer

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MaskingOptions:
    """How tokens are chosen and replaced.

    Attributes:
        probability: share of tokens that are predicted.
        selection: "exact": min(max_predictions, max(1, round(length * probability))) tokens, special ones counted in the
            length, as google does; "bernoulli": each token by itself, as Hugging Face does, at most max_predictions.
        max_predictions: most predictions of one example; None means the share `probability` of the longest example.
        mask, random, keep: shares of the chosen tokens that become [MASK], become a random word, stay. They sum to 1.
        whole_words: all pieces of a word are chosen together.
        random_words: "regular": entries that can occur in text; "all": the whole vocabulary, as in google's code.
    """

    probability: float = 0.15
    selection: str = "exact"
    max_predictions: int | None = None
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1
    whole_words: bool = False
    random_words: str = "regular"

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.selection not in SELECTIONS:
            raise InputError(f"selection = {self.selection!r} is not one of {', '.join(SELECTIONS)}")
        if self.random_words not in RANDOM_WORDS:
            raise InputError(f"random_words = {self.random_words!r} is not one of {', '.join(RANDOM_WORDS)}")
        if not 0 < self.probability < 1:
            raise InputError(f"probability = {self.probability} must be above 0 and below 1")
        if min(self.mask, self.random, self.keep) < 0 or abs(self.mask + self.random + self.keep - 1) > 1e-6:
            raise InputError(f"mask = {self.mask}, random = {self.random}, keep = {self.keep} must be shares that sum to 1")
        if self.max_predictions is not None and self.max_predictions < 1:
            raise InputError(f"max_predictions = {self.max_predictions} must be at least 1")

    def limit(self, max_length: int) -> int:
        """The largest number of predictions in an example of at most `max_length` tokens."""
        if self.max_predictions is not None:
            return self.max_predictions
        share = self.probability * max_length
        if self.selection == "bernoulli":  # five standard deviations above the mean: hardly ever exceeded
            share += 5 * (share * (1 - self.probability)) ** 0.5
        return int(np.ceil(share))

    def budget(self, tokens: int) -> int:
        """Rows to reserve for the predictions of `tokens` tokens, with room for rounding up, or for six standard deviations."""
        share = self.probability * tokens
        if self.selection == "bernoulli":
            return int(share + 6 * (share * (1 - self.probability)) ** 0.5) + 8
        return int(1.03 * share) + 8

    def counts(self, lengths: Ints, max_length: int) -> Ints:
        """(n,) number of predictions of examples of these lengths: exact, or the expected number rounded up."""
        wanted = (
            np.floor(lengths * self.probability + 0.5) if self.selection == "exact" else np.ceil(lengths * self.probability)
        )
        return np.clip(wanted, 1, self.limit(max_length)).astype(np.int64)


class Masker:
    """Masks examples that use one vocabulary."""

    def __init__(self, tokenizer: BertTokenizer, options: MaskingOptions) -> None:
        self.options = options
        self.mask_id = tokenizer.mask_token_id
        size = len(tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(range(size))
        special = set(tokenizer.all_special_ids)
        self.continues = np.array([token is not None and token.startswith("##") for token in tokens])
        regular = [i for i, token in enumerate(tokens) if i not in special and token is not None and not _unused(token)]
        self.random_ids = np.array(regular if options.random_words == "regular" else range(size), dtype=np.int64)

    def mask(self, ids: Ints, candidates: Ints, limit: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """Chooses the tokens to predict and replaces them.

        Args:
            ids: (S,) token ids of an example, special tokens included.
            candidates: rows of `ids` that may be chosen, ascending; a word never continues across a gap in them.
            limit: most predictions, see `MaskingOptions.limit`.
            rng: source of all random draws.

        Returns:
            The ids with replacements (S,), the rows to predict (M,), ascending, and their true ids (M,).
        """
        options = self.options
        count = int(options.counts(np.array([len(ids)]), len(ids))[0])
        count = min(count, limit, len(candidates))
        if options.whole_words:
            rows = self._whole_words(ids, candidates, count, limit, rng)
        elif options.selection == "exact":
            rows = rng.permutation(candidates)[:count]
        else:
            rows = candidates[rng.random(len(candidates)) < options.probability]
            if len(rows) > limit:
                rows = rng.permutation(rows)[:limit]
        rows = np.sort(rows)
        truth, fate = ids[rows], rng.random(len(rows))
        words = self.random_ids[rng.integers(len(self.random_ids), size=len(rows))]
        replaced = np.where(fate < options.mask, self.mask_id, np.where(fate < options.mask + options.random, words, truth))
        masked = ids.copy()
        masked[rows] = replaced
        return masked, rows, truth

    def _whole_words(self, ids: Ints, candidates: Ints, count: int, limit: int, rng: np.random.Generator) -> Ints:
        """Rows of whole words: at most `count` rows, or with "bernoulli" each word independently, at most `limit` rows."""
        if not len(candidates):
            return candidates
        starts = ~self.continues[ids[candidates]]
        starts[0] = True
        starts[1:] |= np.diff(candidates) > 1  # the first piece of segment B never joins the last word of A
        words = np.split(candidates, np.flatnonzero(starts)[1:])
        chosen: list[Ints] = []
        taken = 0
        if self.options.selection == "bernoulli":
            order = np.flatnonzero(rng.random(len(words)) < self.options.probability)
            count = limit
        else:
            order = rng.permutation(len(words))
        for i in order:
            if taken + len(words[i]) <= count:
                chosen.append(words[i])
                taken += len(words[i])
            if taken == count:
                break
        return np.concatenate(chosen) if chosen else words[int(order[0])][:count] if len(order) else candidates[:0]


def _unused(token: str) -> bool:
    """Whether an entry is one of google's placeholders, [unused0] and so on."""
    return token.startswith("[unused") and token.endswith("]")
