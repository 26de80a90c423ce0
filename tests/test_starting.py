"""What is imported when: help is there at once, and PyTorch comes with the first name that needs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastbert
from fastbert import cli

HELPS = [
    ["--help"],
    ["embed", "--help"],
    ["finetune", "ner", "--help"],
    ["pretrain", "--help"],
    ["data", "build", "-h"],
]


def run(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **options}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_help_imports_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom fastbert import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'transformers', 'tokenizers', 'triton'} & set(sys.modules)"
    )
    found = run("-c", code)
    assert found.returncode == 0, found.stderr


def test_help_takes_less_than_0_3_seconds_of_processor_time() -> None:
    """On cores that are slow at the moment, less than four times what Python and tqdm take alone."""
    times: dict[str, list[float]] = {"help": [], "alone": []}
    for _ in range(5):
        for name, arguments in (("help", ("-m", "fastbert", "--help")), ("alone", ("-c", "import argparse, json, tqdm"))):
            before = os.times()
            assert run(*arguments).returncode == 0
            after = os.times()
            times[name].append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(times["help"]) < max(0.3, 4 * min(times["alone"])), times


def test_importing_the_package_does_not_import_torch_and_every_name_is_there() -> None:
    code = (
        "import sys, fastbert\nassert 'torch' not in sys.modules\n"
        "assert fastbert.tasks.Embedder and fastbert.training.pretrain and fastbert.graphs.CapturedModel\n"
        "assert fastbert.reference is fastbert.ops.reference\n"
        "for name in fastbert.__all__:\n    assert getattr(fastbert, name) is not None\n"
        "assert set(fastbert.__all__) <= set(dir(fastbert))\n"
        "heavy = {'transformers', 'sentence_transformers', 'peft', 'onnx', 'onnxruntime', 'datasets', 'pyarrow', 'sklearn'}\n"
        "heavy |= {'ray', 'fastapi', 'uvicorn', 'orjson'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    found = run("-c", code)
    assert found.returncode == 0, found.stderr


def test_threads_may_use_their_first_names_at_once() -> None:
    code = (
        "import sys, threading, fastbert\nsys.setswitchinterval(1e-5)\nfailed = []\n"
        "def use(name):\n    try:\n        getattr(fastbert, name)\n"
        "    except BaseException as error:\n        failed.append(error)\n"
        "names = ['BertModel', 'BertForMaskedLM', 'verify', 'count_parameters', 'BertTokenizer', 'pack']\n"
        "threads = [threading.Thread(target=use, args=(name,)) for name in names]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\nassert not failed, failed"
    )
    found = run("-c", code)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "text",
    ["cannot read runs/seed=1/lr=0.001/train.tsv", "a run with options.lr = 5e-05", "data.objective = 'mlm'", "a-seed = 1"],
)
def test_paths_and_dotted_names_are_no_flags(text: str) -> None:
    from fastbert.commands.adding import with_flags

    args = cli._parser().parse_args(["finetune", "classify", "--model", "m", "--train", "t", "-o", "o"])
    assert with_flags(text, args) == text
    assert with_flags("seeds = 0 and lr = -1", args) == "--seeds 0 and --lr -1"


def test_a_name_that_is_nowhere_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fastbert' has no attribute 'BertForNothing'"):
        _ = fastbert.BertForNothing


def test_a_wrong_backend_in_the_environment_is_one_sentence(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a text\n")
    embed = ["embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy")]
    commands = [[*command, "--model", str(minilm)] for command in (["explain", "A text."], ["verify"], embed)]
    code = f"from fastbert import cli\nprint([cli.main(command) for command in {commands!r}])"
    found = run("-c", code, FASTBERT_BACKEND="fast")
    assert found.stdout == "[2, 2, 2]\n"
    assert found.stderr == 3 * "fastbert: FASTBERT_BACKEND: backend 'fast' is not one of auto, triton, reference\n"


def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path) -> None:
    """A module named torch stands for one that takes long to import."""
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "in.txt").write_text("a text\n")
    command = ["embed", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.npy"), "--model", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(fastbert.__file__).parents[1])])}
    with subprocess.Popen(
        [sys.executable, "-m", "fastbert", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the suite runs in the background
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "fastbert: interrupted; no file is half written\n"
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["embed", "{in}", "-o", "{out}", "--batch-tokens", "0"], "--batch-tokens 0 must be at least 1"),
        (["embed", "{in}", "-o", "{out}", "--column", "text"], "--column 'text' needs a .tsv, .csv, .jsonl or .parquet file"),
        (["embed", "{in}", "-o", "{out}", "--pooling", "sum"], "--pooling ['sum']: the modes are"),
        (["embed", "{long}", "-o", "{out}"], "truncated; --overlong window uses all"),
        (["features", "{in}", "-o", "{out}", "--layers", "one"], "--layers 'one': expected numbers"),
        (["finetune", "classify", "--train", "{in}", "-o", "{folder}", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (["finetune", "classify", "--train", "{in}", "-o", "{folder}", "--epochs", "0"], "--epochs 0 must be"),
        (["finetune", "classify", "--train", "{in}", "-o", "{folder}", "--dev-share", "2"], "--dev-share 2.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[-2:]),
)
def test_messages_name_flags(
    command: list[str], said: str, minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("a text\nanother\n")
    (tmp_path / "in.tsv").write_text("text\tlabel\na text\tA\nanother\tB\n")
    (tmp_path / "long.txt").write_text("word " * 2000 + "\n")
    table = tmp_path / ("in.tsv" if command[0] == "finetune" else "in.txt")
    places = {"in": table, "out": tmp_path / "out.npy", "folder": tmp_path / "run", "long": tmp_path / "long.txt"}
    given = [part.format(**places) for part in command]
    cli.main([*given, "--model", str(minilm), "--device", "cpu"])
    assert said in capsys.readouterr().err
