"""One process at a time works in the folder of a run: the second names the first, and a lock of the dead holds nobody up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretraining_cases import make_corpus, make_recipe
from task_cases import save_encoder, texts

from fastbert import cli, files
from fastbert.errors import InputError
from fastbert.files.claiming import CLAIM
from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.training import pretrain

HOLD = "import sys; from fastbert import files\nwith files.claimed(sys.argv[1]):\n print('holds', flush=True); sys.stdin.read()"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that works in tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_the_second_process_names_the_first(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=rf"run is in use: process {holder.pid} on .* works there"),
        files.claimed(tmp_path / "run"),
    ):
        pass
    holder.communicate("")
    with files.claimed(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / CLAIM).read_text()


def test_a_process_that_was_killed_holds_nobody_up(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / CLAIM).exists()
    with files.claimed(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path: Path) -> None:
    with files.claimed(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()


def test_two_pretrainings_do_not_share_a_folder(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus")
    with pytest.raises(InputError, match=f"process {holder.pid} "):
        pretrain(make_recipe(tmp_path / "corpus"), tmp_path / "run", "cpu")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CLAIM]


def test_two_finetunings_do_not_share_a_folder(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_encoder(tmp_path / "encoder")
    rows = "\n".join(f"{example.text}\t{example.label}" for example in texts(20, 0))
    (tmp_path / "train.tsv").write_text(f"text\tlabel\n{rows}\n")
    command = ["finetune", "classify", "--model", str(tmp_path / "encoder"), "--train", str(tmp_path / "train.tsv")]
    assert cli.main([*command, "-o", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert f"run is in use: process {holder.pid} on " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [CLAIM]
    holder.communicate("")
    finetune(
        "classify", tmp_path / "encoder", texts(20, 0), output=tmp_path / "run", options=FineTuneOptions(epochs=1), device="cpu"
    )
    assert not (tmp_path / "run" / CLAIM).exists()
