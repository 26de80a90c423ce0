"""What embedders share: prompts, the limit of a text, and its row of tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from fastbert import files
from fastbert.errors import InputError
from fastbert.model import checkpoint
from fastbert.model.families import class_for
from fastbert.model.pretrained import BertPreTrainedModel
from fastbert.progress import Show
from fastbert.tasks.loading import check_complete, check_vocabulary, default_device, load_tokenizer
from fastbert.tasks.sentence_folder import SENTENCE_FILES
from fastbert.tasks.sequences import split_pairs
from fastbert.text import tokenizer_files
from fastbert.text.encoding import pair_lengths
from fastbert.text.framing import Framed, Place, frame
from fastbert.text.tokenizer import Tokenizer

_OWN = (*checkpoint.PATTERNS, *tokenizer_files.PATTERNS)
PATTERNS = [*SENTENCE_FILES, *_OWN, *(f"*/{pattern}" for pattern in _OWN)]  # files that an embedder reads


class Prompted:
    """A model of texts, which may stand behind a prompt.

    Args:
        model, tokenizer: a model, which is put into evaluation mode, and its tokenizer.
        max_length: most tokens used of a text; None means the limit of model and tokenizer.
        prompt: text put before every text.
        prompts: prompts by name.
        do_lower_case: lower-case prompt and texts if the tokenizer does not.
    """

    # Each embedder's own:
    encode: Any  # texts to vectors
    model_class: ClassVar[type[BertPreTrainedModel]]
    loading: ClassVar[Mapping[str, Any]] = {}  # options of its `from_pretrained`

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        prompt: str = "",
        prompts: Mapping[str, str] | None = None,
        do_lower_case: bool = False,
    ) -> None:
        check_vocabulary(tokenizer, model)
        self.model = model.eval()
        self.tokenizer = tokenizer.lower_casing() if do_lower_case else tokenizer
        self.prompt, self.prompts = prompt, dict(prompts or {})
        table = model.config.longest_sequence
        limit = max_length if max_length is not None else tokenizer.model_max_length
        self.max_length = table if limit is None else min(limit, table)
        if self.max_length <= tokenizer.num_special_tokens():
            raise InputError(f"max_length = {self.max_length} leaves no room for text beside the special tokens")

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        **hub: Any,
    ) -> Self:
        """Loads a BERT, or a sentence-transformers folder with a BERT, including what stands behind it and its limits.

        Args:
            path_or_hub_id: a directory or an id on the hub.
            device: None means a CUDA device if there is one, else the CPU.
            dtype: dtype of the parameters; None keeps the checkpoint's.
            hub: `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            CheckpointError: a module that fastbert does not support, or a checkpoint without the head that is needed; the
                message names it.
        """
        target = default_device(device)
        folder = files.locate(path_or_hub_id, PATTERNS, **hub)
        place, settings = cls._read_settings(folder)
        kind = class_for(cls.model_class, place)
        model, _ = kind.from_pretrained(place, dtype=dtype, device=target, output_loading_info=True, **cls.loading)
        check_complete(model, path_or_hub_id)
        return cls(model, load_tokenizer(place, model), **settings)

    @classmethod
    def _read_settings(cls, folder: Path) -> tuple[Path, dict[str, Any]]:
        """The folder of the BERT, and what the folder says of the embedder's arguments."""
        raise NotImplementedError

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Any:
        """As `encode`, with the prompt "query" if the model has it and no other is given."""
        return self.encode(texts, **self._with_prompt(("query",), options))

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Any:
        """As `encode`, with the prompt "document", "passage" or "corpus" if the model has one and no other is given."""
        return self.encode(texts, **self._with_prompt(("document", "passage", "corpus"), options))

    def _with_prompt(self, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        known = next((name for name in names if name in self.prompts), None)
        given = options.get("prompt") is not None or options.get("prompt_name") is not None
        return options if given or known is None else {**options, "prompt_name": known}

    def prompt_of(self, prompt: str | None, name: str | None) -> str:
        """The text put before every text: the one given, that of a name, or the embedder's own."""
        if prompt is not None or name is None:
            return self.prompt if prompt is None else prompt
        if name not in self.prompts:
            raise InputError(
                f"prompt_name = {name!r} is not one of the model's prompts: {', '.join(self.prompts) or 'it has none'}"
            )
        return self.prompts[name]

    def frame(
        self, texts: Sequence[Any], overlong: str = "truncate", show: Show = False, *, prompt: str | None = None
    ) -> Framed:
        """Encodes texts or pairs as rows of at most `max_length` tokens, behind a prompt; warns if texts are cut.

        Pairs are cut as the `tokenizers` library does it, to give the same vectors as sentence-transformers.
        """
        framed = self.frame_quietly(texts, overlong, show, prompt=prompt)
        cut = np.count_nonzero(framed.cut)
        if cut:
            warnings.warn(
                f"{cut} of {len(texts)} texts have more than {self.max_length} tokens and were truncated; "
                "overlong='window' uses all",
                stacklevel=4,  # skips `encode` and the inference-mode decorator
            )
        return framed

    def frame_quietly(
        self,
        texts: Sequence[Any],
        overlong: str = "truncate",
        show: Show = False,
        *,
        prompt: str | None = None,
        place: Place | str = "texts",
    ) -> Framed:
        """As `frame`, without the warning: `Framed.cut` says what was cut. `place` is what messages call a text."""
        first, second = split_pairs(texts, place)
        prompt = self.prompt if prompt is None else prompt
        if prompt:
            first = [prompt + text for text in first]
        how = "truncate" if overlong == "window" and second is not None else overlong
        framed = frame(
            self.tokenizer,
            first,
            second,
            max_length=self.max_length,
            overlong=how,
            overlap=0,
            place=place,
            cut=lambda a, b, room: pair_lengths(a, b, room, "longest_first"),
            show=show,
        )
        cut = np.flatnonzero(framed.cut)
        if len(cut) and how != overlong:
            tokens = framed.lengths[cut[0]] + framed.cut[cut[0]]
            raise InputError(f"{framed.place(cut[0])} is a pair of {tokens} tokens: windows are for single texts; truncate it")
        return framed
