"""Prepares a run before its first step: the output folder, the corpus, the examples, the model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastbert import files
from fastbert.data.batches import Budget, EpochBatches
from fastbert.data.corpus import HELD_OUT, Corpus, build_corpus
from fastbert.data.documents import Sentences, expand_sources, read_sentences, source_hashes
from fastbert.data.examples import CorpusExamples, Examples
from fastbert.data.static import StaticExamples, is_static
from fastbert.errors import CheckpointError, InputError
from fastbert.model.config import BertConfig
from fastbert.model.lm_heads import BertForMaskedLM, BertForPreTraining, BertLMHeadModel
from fastbert.text.tokenizer import BertTokenizer
from fastbert.training.recipe import Recipe

CLASSES: dict[str, Any] = {
    "mlm+nsp": BertForPreTraining,
    "mlm+sop": BertForPreTraining,
    "mlm": BertForMaskedLM,
    "ltr": BertLMHeadModel,
}
EVALUATION_SEED = 1_000_003  # for masking held-out text: the same for every run, so that runs can be compared

# Keys that may differ in a resumed run: they do not change what is learned, or only change its rounding.
_FREE = {"data.corpus"} | {
    f"run.{name}"
    for name in (
        "log_every",
        "checkpoint_every",
        "keep",
        "workers",
        "compile",
        "capture",
        "sharded",
        "tensorboard",
        "gradient_checkpointing",
    )
}


def prepare_folder(recipe: Recipe, folder: Path, begun: bool, progress: Callable[[str], None]) -> None:
    """Creates the output folder and writes the recipe into it.

    Args:
        recipe: the recipe of the run.
        folder: the output folder of the run.
        begun: whether there is a checkpoint, which only the same recipe may resume from, or one with more steps.
        progress: called with a message if the run gets more steps than it was planned for.

    Raises:
        InputError: the folder holds something else, or a run of another recipe. CheckpointError: it cannot be written.
    """
    path = folder / "recipe.json"
    if path.is_file():
        for key, before, now in differences(files.read_json(path), json.loads(json.dumps(recipe.to_dict()))):
            if not begun and key.startswith("data."):
                shutil.rmtree(folder / "corpus", ignore_errors=True)  # of a recipe without a checkpoint
            if begun and key == "phases" and lengthened(before, now):
                progress(_about_more_steps(recipe, sum(phase["steps"] for phase in before)))
                continue
            dropped = key == "target.below_unigram" and not now  # the target of a recipe that runs on other text
            if begun and key not in _FREE and not dropped:
                raise InputError(
                    f"{folder} holds a run with {key} = {before!r}; now it is {now!r}: name another output, or the same value"
                )
    elif folder.exists() and (not folder.is_dir() or not files.holds_nothing(folder)):
        raise InputError(f"{folder} holds something other than a pre-training run: name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror}") from None
    files.write_text(path, json.dumps(recipe.to_dict(), indent=1) + "\n")


def _about_more_steps(recipe: Recipe, before: int) -> str:
    text, schedule = f"the run is lengthened from {before:,} to {recipe.steps:,} steps", recipe.schedule.name
    if schedule == "constant":
        return text
    return (
        f"{text}; the steps so far had the learning rates of the shorter run (schedule.name = {schedule!r}), so it will not be "
        "the same as a run that was planned longer"
    )


def lengthened(before: Any, now: Any) -> bool:
    """Whether phases are those of before with more steps in the last one, or with further phases, and nothing else."""
    *same, last = before
    if now[: len(same)] != same or len(now) < len(before):
        return False
    longer = now[len(same)]
    return {**longer, "steps": last["steps"]} == last and longer["steps"] >= last["steps"]


def differences(before: Any, now: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (path, before, now) for every difference between two nested mappings."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from differences(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    elif before != now:
        yield place, before, now


def prepare_corpus(recipe: Recipe, folder: Path, progress: Callable[[str], None]) -> None:
    """Builds vocabulary and corpus in the output folder, if the recipe names source text and they do not exist yet.

    `progress` is called with each status message.
    """
    data = recipe.data
    if bool(data.corpus) == bool(data.sources):
        got = "both are" if data.corpus else "neither is"
        raise InputError(
            f"give data.corpus, a folder of `fastbert data build`, or data.sources, text to build one of; {got} given"
        )
    sources = expand_sources(data.sources)
    hashes = source_hashes(sources)
    manifest = files.read_json_if_present(folder / "corpus" / "manifest.json") if data.sources else {}
    for source, digest in (manifest.get("source_sha256") or {}).items():
        if hashes.get(source) != digest:
            raise InputError(
                f"{source} has changed since the corpus in {folder} was built: name another output, or restore the text"
            )
    if data.sources and not manifest:
        progress(f"vocabulary of {data.vocab_size:,} entries and corpus from {', '.join(data.sources)}")
        longest = max(phase.max_length for phase in recipe.phases)
        tokenizer = BertTokenizer.train(Sentences(sources), data.vocab_size, model_max_length=longest)
        about = {"source_sha256": hashes}
        report = build_corpus(read_sentences(sources), tokenizer, folder / "corpus", held_out=data.held_out, about=about)
        progress(report.table())


def check_corpus(recipe: Recipe, folder: Path) -> None:
    """Checks the files of the corpus against the hashes in its manifest.

    Raises:
        CheckpointError: a file was changed or is damaged; the message names it.
    """
    corpus_folder = Path(recipe.data.corpus) if recipe.data.corpus else folder / "corpus"
    if is_static(corpus_folder):
        StaticExamples.open(corpus_folder, check=True)
    else:
        kept = Corpus.open(corpus_folder, check=True).folder / HELD_OUT
        if (kept / "manifest.json").is_file():
            Corpus.open(kept, check=True)


@dataclass
class Sources:
    """The data sources of a run.

    Attributes:
        examples: the examples of each phase.
        tokenizer: the tokenizer of the corpus.
        held_out: batches for evaluation; None without held-out text.
        unigram_entropy: entropy of the token frequencies of the held-out text, in nats.
        fingerprint: hash of the corpus's manifest, which holds the hashes of all its files.
    """

    examples: list[Examples]
    tokenizer: BertTokenizer
    held_out: EpochBatches | None
    unigram_entropy: float
    fingerprint: str


def open_sources(recipe: Recipe, folder: Path) -> Sources:
    """Opens the corpus, or static examples, of a recipe.

    Raises:
        InputError: the corpus does not fit the recipe. CheckpointError: the corpus is damaged.
    """
    corpus_folder = Path(recipe.data.corpus) if recipe.data.corpus else folder / "corpus"
    held_out, entropy = None, 0.0
    if is_static(corpus_folder):
        static = StaticExamples.open(corpus_folder)
        for number, phase in enumerate(recipe.phases):
            static.check(recipe.example_options(phase), f"phases.{number}")
        examples: list[Examples] = [static] * len(recipe.phases)
        tokenizer = static.tokenizer()
    else:
        corpus = Corpus.open(corpus_folder)
        tokenizer = corpus.tokenizer()
        corpus.check_vocabulary(tokenizer, f"{corpus_folder}/tokenizer")
        options = [recipe.example_options(phase) for phase in recipe.phases]
        examples = [CorpusExamples(corpus, one, recipe.run.seed, tokenizer) for one in options]
        kept = corpus.held_out()
        if kept is not None:
            if recipe.data.objective == "mlm+nsp" and kept.num_documents < 2:
                raise InputError(
                    f"{kept.folder} holds {kept.num_documents} document, too few for next-sentence pairs: build the corpus "
                    "with a larger --held-out, or with none"
                )
            entropy = kept.unigram_entropy()
            source = CorpusExamples(kept, options[-1], EVALUATION_SEED, tokenizer)
            budget = Budget.of(source, recipe.phases[-1].batch_tokens)
            held_out = EpochBatches(source, budget, EVALUATION_SEED, 0)
    if recipe.model.init and BertTokenizer.from_pretrained(recipe.model.init).get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"the vocabulary of model.init = {recipe.model.init!r} is not the one that {corpus_folder} was built with: build "
            "it with that tokenizer"
        )
    if recipe.target.below_unigram and held_out is None:
        raise InputError(f"target.below_unigram needs held-out text, and {corpus_folder} has none")
    fingerprint = hashlib.sha256((corpus_folder / "manifest.json").read_bytes()).hexdigest()
    return Sources(examples, tokenizer, held_out, entropy, fingerprint)


def build_model(recipe: Recipe, sources: Sources) -> Any:
    """The model of a recipe, on the CPU, with random weights drawn from the seed or the weights of `model.init`.

    Raises:
        InputError: a vocabulary, a number of segments or a length that the model's embedding tables are too small for.
    """
    kind = CLASSES[recipe.data.objective]
    torch.manual_seed(recipe.run.seed)
    causal = recipe.data.objective == "ltr"
    if recipe.model.init:
        fields = {**recipe.model.config, "is_decoder": causal, "return_dict": True}
        model = kind.from_pretrained(recipe.model.init, dtype="float32", **fields)
    else:
        tokenizer = sources.tokenizer
        fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **recipe.model.config}
        model = kind(BertConfig.of_size(recipe.model.size, **{**fields, "is_decoder": causal}))
    config = model.config
    if config.vocab_size < len(sources.tokenizer):
        raise InputError(f"vocab_size = {config.vocab_size} is below the {len(sources.tokenizer)} entries of the corpus")
    if config.type_vocab_size < 2 and "+" in recipe.data.objective:
        raise InputError(f"type_vocab_size = {config.type_vocab_size}: {recipe.data.objective} has two segments")
    for number, source in enumerate(sources.examples):
        if source.max_length > config.max_position_embeddings:
            raise InputError(
                f"phases.{number}.max_length = {source.max_length} is above max_position_embeddings = "
                f"{config.max_position_embeddings}"
            )
    if recipe.run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model
