"""What a server answers, by the head of its model: from the inputs of a request to what stands in the response.

embed, rerank, predict   inputs and options -> results; rows go to the shared loop, whatever the request
tokenize                 texts -> pieces
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastbert import files
from fastbert.choices import SERVED
from fastbert.errors import CheckpointError, InputError
from fastbert.model.families import config_of
from fastbert.model.pooling import check_modes
from fastbert.model.prepacking import prepack
from fastbert.tasks import prompted
from fastbert.tasks.classifier import Classifier
from fastbert.tasks.embedder import Embedder
from fastbert.tasks.fill_mask import FillMask
from fastbert.tasks.loading import PATTERNS, task_settings
from fastbert.tasks.next_sentence import NextSentence
from fastbert.tasks.nli import NLI
from fastbert.tasks.question_answerer import QuestionAnswerer
from fastbert.tasks.reranker import ACTIVATIONS, Reranker
from fastbert.tasks.token_tagger import TokenTagger
from fastbert.text.framing import Framed, Framer

_BY_ENDING = {
    "ForTokenClassification": "ner",
    "ForQuestionAnswering": "qa",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForNextSentencePrediction": "next-sentence",
}
_TASKS: dict[str, Any] = {
    "embed": Embedder,
    "rerank": Reranker,
    "classify": Classifier,
    "nli": NLI,
    "ner": TokenTagger,
    "qa": QuestionAnswerer,
    "fill-mask": FillMask,
    "next-sentence": NextSentence,
}


def kind_of(folder: Path) -> str:
    """What a model is for: the task it was fine-tuned for, else by its head; without one, and with modules of
    sentence-transformers, vectors.

    Raises:
        CheckpointError: a head that no server answers with.
    """
    written = task_settings(folder).get("task")
    if written is not None:
        kind = "classify" if written in ("classify", "regress") else written
        if kind not in SERVED:
            raise CheckpointError(
                f"{folder} was trained for {written}, which fastbert does not serve; it serves {', '.join(SERVED)}"
            )
        return str(kind)
    if (folder / "modules.json").is_file():
        return "embed"
    named = files.read_json_if_present(folder / "config.json").get("architectures")
    head = str(named[0]) if isinstance(named, list) and named else ""
    if head.endswith("ForSequenceClassification"):
        return "rerank" if config_of(folder).num_labels == 1 else "classify"
    if head.endswith("ForMultipleChoice"):
        raise CheckpointError(f"{folder} is a {head}, which fastbert does not serve; it serves {', '.join(SERVED)}")
    return next((kind for ending, kind in _BY_ENDING.items() if head.endswith(ending)), "embed")


class Served:
    """A loaded model.

    Args:
        model: a directory or a hub id.
        kind: one of `SERVED`; None means the model's own.
        device, dtype: as of the tasks' `from_pretrained`.
        pooling: of vectors; None means the model's own.
        hub: `revision`, `local_files_only`.
    """

    def __init__(
        self,
        model: str,
        kind: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        pooling: str | None = None,
        **hub: Any,
    ) -> None:
        folder = files.locate(model, [*PATTERNS, *prompted.PATTERNS, *Reranker.patterns], **hub)
        self.kind = kind_of(folder) if kind is None else kind
        if self.kind not in SERVED:
            raise InputError(f"task = {self.kind!r} is not one of {', '.join(SERVED)}")
        self.task = _TASKS[self.kind].from_pretrained(folder, device, dtype)
        if pooling is not None:
            if self.kind != "embed":
                raise InputError(f"pooling = {pooling!r} is for vectors; {model} answers {self.kind}")
            self.task.pooling = check_modes(pooling.split(","))
        prepack(self.task.model)
        self.folder = folder

    @property
    def max_length(self) -> int:
        """Most tokens of an input that is not cut."""
        found: int = self.task.max_length if hasattr(self.task, "max_length") else self.task.longest
        return found

    def info(self) -> dict[str, Any]:
        """Facts for /info, and for what the HTTP side checks itself."""
        model, tokenizer = self.task.model, self.task.tokenizer
        found = {
            "kind": self.kind,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "max_input_length": self.max_length,
            "labels": list(getattr(model.config, "label_names", [])) if self.kind in ("classify", "nli", "ner") else [],
            "mask": tokenizer.mask_token,
        }
        if self.kind == "embed":
            found |= {
                "pooling": list(self.task.pooling),
                "dimensions": self.task.get_embedding_dimension(),
                "prompts": list(self.task.prompts),
            }
        return found

    def answer(self, name: str, payload: Mapping[str, Any]) -> Any:
        """The answer to a request.

        Args:
            name: "embed", "rerank", "predict" or "tokenize".
            payload: inputs and options, as the functions below take them.

        Raises:
            InputError: what this model does not do, or cannot read. TooLongError: a text that is too long.
        """
        functions: dict[str, Any] = {
            "embed": self._embed,
            "rerank": self._rerank,
            "predict": self._predict,
            "tokenize": self._tokenize,
        }
        return functions[name](**payload)

    def _embed(
        self,
        inputs: Sequence[Any],
        truncate: bool = False,
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
    ) -> tuple[np.ndarray, int]:
        """Vectors (n, D) of texts or lists of token ids, and how many tokens were read."""
        self._need("embed", "vectors")
        task = self.task
        before = task.prompt_of(None, prompt_name)
        overlong = "truncate" if truncate else "error"
        width = task.get_embedding_dimension()
        if dimensions is not None and dimensions > width:
            raise InputError(f"dimensions = {dimensions} must be from 1 to {width}")
        if inputs and not isinstance(inputs[0], str):
            framed = self._frame_ids(inputs, truncate, before)
        else:
            framed = task.frame_quietly(inputs, overlong, prompt=before, place="inputs")
        vectors = task.finish(task.pooled(framed, task.pooling, before, name="embed"), normalize, dimensions)
        return vectors, framed.num_tokens

    def _frame_ids(self, rows: Sequence[Sequence[int]], truncate: bool, before: str) -> Framed:
        """Rows of ids without special tokens, as a tokenizer gives them to a client, behind a prompt, with such around them."""
        front = self.task.tokenizer.encode(before, add_special_tokens=False) if before else []
        most = self.task.model.config.vocab_size
        framer = Framer(self.task.tokenizer, self.max_length, "input")
        for number, row in enumerate(rows):
            wrong = next((id for id in row if not 0 <= id < most), None)
            if wrong is not None:
                raise InputError(f"input[{number}] holds {wrong}, which is outside the vocabulary (0..{most - 1})")
            framer.add([*front, *row], None, "truncate" if truncate else "error")
        return framer.framed()

    def _rerank(
        self, query: str, texts: Sequence[str], truncate: bool = False, raw_scores: bool = False
    ) -> tuple[list[float], int]:
        """A score a text, and how many tokens were read."""
        self._need("rerank", "scores of pairs")
        task = self.task
        framed = task.frame_quietly([(query, text) for text in texts], "truncate" if truncate else "error", "texts")
        scores = task.logits(framed)
        if not raw_scores:
            scores = ACTIVATIONS[task.activation](scores)
        return scores.squeeze(-1).tolist(), framed.num_tokens

    def _predict(self, inputs: Sequence[Any], truncate: bool = False, raw_scores: bool = False, **options: Any) -> list[Any]:
        """For each input: labels with scores, best first; entities; an answer; or words at masks."""
        task, kind = self.task, self.kind
        if kind in ("classify", "nli"):
            framed = task.frame_quietly(inputs, "truncate" if truncate else "error", "inputs")
            logits = task.logits(framed)
            rows = (logits if raw_scores or task.problem_type == "regression" else task.probabilities(logits)).tolist()
            names = task.relations if kind == "nli" else task.labels
            found = [[{"label": name, "score": score} for name, score in zip(names, row, strict=True)] for row in rows]
            return [sorted(one, key=lambda label: -label["score"]) for one in found]
        if kind == "next-sentence":
            return [[row] for row in task.predict(inputs)]
        if kind in ("ner", "qa", "fill-mask"):
            return list(task.predict(inputs, **options))
        raise InputError(f"this model answers {kind}: ask /{kind}")

    def _tokenize(self, inputs: Sequence[str], add_special_tokens: bool = True) -> list[list[dict[str, Any]]]:
        """For each text its pieces: {"id", "text", "special", "start", "stop"}."""
        tokenizer = self.task.tokenizer
        found = []
        for text, row in zip(inputs, tokenizer(list(inputs), add_special_tokens=add_special_tokens).encodings, strict=True):
            special = [word is None for word in row.word_ids]
            pieces = zip(row.ids, row.tokens, special, row.offsets, strict=True)
            found.append(
                [
                    {
                        "id": id,
                        "text": token if is_special else text[start:stop],
                        "special": is_special,
                        "start": None if is_special else start,
                        "stop": None if is_special else stop,
                    }
                    for id, token, is_special, (start, stop) in pieces
                ]
            )
        return found

    def _need(self, kind: str, what: str) -> None:
        if self.kind != kind:
            raise InputError(f"this model gives no {what}: it answers {self.kind}")
