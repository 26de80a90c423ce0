"""A disk that is full, or will be: the message names the file and its size, nothing is half written, training says it first."""

from __future__ import annotations

import errno
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import make_pair
from pretraining_cases import make_corpus, make_recipe
from task_cases import save_encoder, texts

from fastbert import files
from fastbert.errors import CheckpointError
from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.training import pretrain

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 1000))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("230400 requested and 152544 written")],
    ids=["os", "numpy"],
)
def test_a_full_disk_names_file_and_size_and_keeps_the_old_file(error: OSError, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old")

    def write() -> None:
        with files.replacing(path) as part:
            part.write_bytes(b"x" * 1234)
            raise error

    with pytest.raises(CheckpointError) as found:
        write()
    assert str(found.value) == f"cannot write {path} after 1,234 bytes of it: No space left on device"
    assert [one.name for one in tmp_path.iterdir()] == ["a.jsonl"]
    assert path.read_text() == "old"
    with pytest.raises(PermissionError), files.replacing(path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_room_is_asked_for_where_the_folder_will_be(little_room: None, tmp_path: Path) -> None:
    files.check_room(tmp_path / "not" / "yet", 1000, "it")
    with pytest.raises(CheckpointError, match=r"^it needs 2\.0 MiB in .*yet, and 0\.0 MiB are free$"):
        files.check_room(tmp_path / "not" / "yet", 2 << 20, "it")


def test_a_model_that_does_not_fit_is_not_begun(little_room: None, tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    with pytest.raises(CheckpointError, match=r"model\.safetensors needs \d+\.\d MiB in"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_training_says_at_its_start_that_no_checkpoint_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus(tmp_path / "c", 30)
    encoder = save_encoder(tmp_path / "encoder")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 100_000))
    message = re.compile(r"a checkpoint needs 0\.\d MiB in .*checkpoints, and 0\.1 MiB are free")
    with pytest.raises(CheckpointError, match=message):
        pretrain(make_recipe(corpus.folder), tmp_path / "pre", "cpu")
    assert not list((tmp_path / "pre").glob("checkpoints/*"))
    with pytest.raises(CheckpointError, match=message):
        finetune("classify", encoder, texts(8, 0), output=tmp_path / "run", options=FineTuneOptions(epochs=1), device="cpu")
    assert not (tmp_path / "run" / "model").exists()
