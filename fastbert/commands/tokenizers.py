"""The tokenizer train command: learns a vocabulary and reports on it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import fastbert
from fastbert.commands.adding import check_outputs, print_json
from fastbert.commands.options import form_of, text_options
from fastbert.data.documents import Sentences, expand_sources
from fastbert.data.lines import Form
from fastbert.data.texts import read_texts
from fastbert.errors import InputError
from fastbert.terminal import show_note, shows_progress


def train_tokenizer(args: argparse.Namespace) -> None:
    """Learns a WordPiece vocabulary from text; the result is deterministic."""
    from fastbert.model.checkpoint import WEIGHT_FILES
    from fastbert.text.tokenizer_files import PATTERNS as TOKENIZER_FILES
    from fastbert.text.vocabulary import vocabulary_report

    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write {folder}: it is a file")
    check_outputs([folder / name for name in TOKENIZER_FILES], [*args.input, args.held_out])
    held = [name for name in ("config.json", *WEIGHT_FILES) if (folder / name).is_file()]
    if held:
        raise InputError(f"{folder} holds a model ({held[0]}), whose tokenizer this would replace: name another folder")
    once = "-" in args.input  # standard input can be read only once
    share = _share(args.held_out)
    if once and share is not None:
        raise InputError(f"held_out = {args.held_out}: standard input cannot be read twice; name a file to hold out")
    texts: Iterable[str] = Sentences(expand_sources(args.input), **text_options(args), form=form_of(args))
    reported: Iterable[str] | None = _Part(texts, 100, True)
    place = "every 100th text trained on"
    if share is not None:
        every = round(1 / share)
        texts, reported, place = _Part(texts, every, False), _Part(texts, every, True), f"{share:.2%} of the texts, held out"
    elif args.held_out:
        reported, place = read_texts(args.held_out, form=Form(args.encoding)), args.held_out
    elif once:
        reported = None
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)  # early, so that an unwritable folder fails before training
    try:
        tokenizer = fastbert.BertTokenizer.train(
            iter(texts) if once else texts,
            args.vocab_size,
            min_frequency=args.min_frequency,
            do_lower_case=not args.cased,
            model_max_length=args.max_length,
            show_progress=shows_progress(None),
        )
        tokenizer.save_pretrained(folder)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
    show_note(f"{len(tokenizer):,} entries -> {folder}")
    found = None if reported is None else vocabulary_report(tokenizer, reported)
    if args.json:
        print_json(
            {"entries": len(tokenizer), "folder": folder, **({} if found is None else {**asdict(found), "texts": place})}
        )
    elif found is not None:
        print(f"{found} on {place}")


def _share(value: str | None) -> float | None:
    """Parses a share of the texts; None if the value names a file or is absent."""
    try:
        share = float(value or "")
    except ValueError:
        return None
    if not 0 < share <= 0.5:
        raise InputError(f"held_out = {value} must be a share above 0 and at most 0.5, or a text file")
    return share


class _Part:
    """Iterates over every n-th text, or over all the others."""

    def __init__(self, texts: Iterable[str], every: int, chosen: bool) -> None:
        self.texts, self.every, self.chosen = texts, every, chosen

    def __iter__(self) -> Iterator[str]:
        return (text for i, text in enumerate(self.texts) if (i % self.every == self.every - 1) == self.chosen)
