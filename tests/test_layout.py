"""The shape of the code: who may import whom, what is written where, and that the root's `kernels` harms nobody."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastbert"
HEAVY = {"transformers", "sklearn", "scipy", "seqeval", "matplotlib", "sentence_transformers", "datasets"}
HEAVY |= {"ray", "fastapi", "uvicorn"}
HEAVY |= {"tensorboard", "pytorch_optimizer", "torchmetrics", "onnx", "onnxruntime", "onnxscript", "peft", "pyarrow"}

# What each room or file of the package may import of it, from the lowest to the highest.
BASE = {"choices", "errors", "files", "forking", "interop", "progress", "schema", "stopping", "terminal", "threads"}
MODEL = BASE | {"text", "packing", "ops", "model"}
ABOVE = {"diagnostics", "verification", "graphs", "data", "tasks", "bulk", "training", "finetuning", "studies", "integrations"}
ABOVE |= {"serving"}
ALLOWED = {
    "choices": set(),
    "errors": set(),
    "stopping": set(),
    "interop": set(),
    "files": {"errors", "files", "stopping"},
    "schema": {"errors"},
    "forking": {"errors"},
    "terminal": {"errors"},
    "progress": {"terminal"},
    "threads": {"errors"},
    "text": {"choices", "errors", "files", "interop", "progress", "schema", "text"},
    "packing": {"errors", "progress", "text", "packing"},
    "ops": {"choices", "errors", "kernels", "ops"},
    "model": BASE | {"packing", "ops", "model"},
    "reference": {"ops"},
    "composed": {"model"},
    "pooling": {"model"},
    "graphs": {"errors", "packing", "ops", "model"},
    "integrations": MODEL | {"tasks", "bulk", "integrations"},
    "diagnostics": MODEL,
    "verification": MODEL | {"diagnostics"},
    "data": {"choices", "errors", "files", "text", "packing", "data"},
    "tasks": MODEL | {"data", "tasks"},
    "bulk": MODEL | {"data", "tasks", "training", "bulk"},
    "serving": MODEL | {"tasks", "serving", "__init__"},
    "training": MODEL | {"data", "diagnostics", "graphs", "training"},
    "finetuning": MODEL | {"data", "diagnostics", "tasks", "training", "finetuning"},
    "studies": MODEL | {"data", "diagnostics", "training", "finetuning", "studies"},
    "commands": MODEL | ABOVE | {"commands", "__init__"},
    "cli": {"errors", "stopping", "terminal", "threads", "commands", "__init__"},
    "__main__": {"cli"},
    "__init__": MODEL | ABOVE,
}


def sources(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "kernels" not in path.relative_to(folder).parts]


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Dotted names that a file imports, those inside functions included, or those at its top only."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reached(path: Path) -> set[str]:
    """Modules of ours that a file reaches as attributes of others that it imports: `ops.reference`."""
    names, found = {}, set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastbert":
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name: alias.name for alias in node.names if alias.name == "fastbert"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            name = f"{names[node.value.id]}.{node.attr}"
            place = ROOT.joinpath(*name.split("."))
            if place.with_suffix(".py").is_file() or place.is_dir():
                found.add(name)
    return found


def owner(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_imports_what_its_layer_may_not(path: Path) -> None:
    named = {name for name in imports(path) if name.split(".")[0] == "fastbert"} | reached(path)
    inside = {name.split(".")[1] if name.count(".") else "__init__" for name in named}
    known = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in sources(PACKAGE)} | {"kernels"}
    inside = {name if name in known else "__init__" for name in inside}
    assert inside <= ALLOWED[owner(path)], f"{path.name} may not import {sorted(inside - ALLOWED[owner(path)])}"


def test_the_table_knows_every_file() -> None:
    assert {owner(path) for path in sources(PACKAGE)} == set(ALLOWED)


def test_no_file_imports_itself_by_a_way_round() -> None:
    """Imports inside functions and of types count as well."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sources(PACKAGE)
    }
    graph = {}
    for name, path in modules.items():
        named = {one if one in modules else one.rpartition(".")[0] for one in imports(path)}
        graph[name] = {one for one in named & modules.keys() if one != "fastbert" or name == "fastbert"} - {name}
    with_order = list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle
    assert len(with_order) == len(modules)


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "kernels"], ids=["fastbert", "kernels"])
def test_no_file_is_long(folder: Path) -> None:
    long = {p.name: n for p in folder.rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 350}
    assert long == {}, "one idea a file"


def test_files_that_the_makefile_names_are_there() -> None:
    named = re.findall(r"(?:tests|benchmarks)/\w+\.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_nothing_imports_benchmarks_or_tests_and_extras_are_never_needed() -> None:
    for path in sources(PACKAGE):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"benchmarks", "tests"}, path
        at_import = {name.split(".")[0] for name in imports(path, everywhere=False)}
        needed = {"fastapi", "uvicorn"} if owner(path) == "serving" else set()  # which only the command serve imports
        assert not at_import & HEAVY - needed, path  # imported where they are used, in functions


def test_no_extra_asks_for_a_torch() -> None:
    """Installing one leaves the torch that is there."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = text[text.index("extras_require") : text.index("entry_points")]
    assert '"onnx": [' in extras
    assert not re.search(r'"(torch|triton)\W', extras)


def test_triton_stays_in_kernels() -> None:
    for path in sources(PACKAGE):
        assert "triton" not in {name.split(".")[0] for name in imports(path)}, path
        assert "@triton" not in path.read_text(encoding="utf-8"), path


def test_kernels_know_tensors_and_one_another_at_most() -> None:
    for path in sorted((ROOT / "kernels").glob("*.py")):
        if path.stem == "launching":  # no kernels: how they are started
            assert not any(name.startswith("fastbert") for name in imports(path))
            continue
        names = imports(path)
        assert {name.split(".")[0] for name in names} <= {"torch", "triton", "fastbert", "functools", "operator"}, path
        ours = {name for name in names if name.split(".")[0] == "fastbert"}
        shared = ("fastbert.kernels.tuning", "fastbert.kernels.common.", "fastbert.kernels.launching.")
        if path.stem.startswith("attention"):  # one op in five files
            shared += ("fastbert.kernels.attention_",)
        assert all(name.startswith(shared) for name in ours), path
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))), path


def test_kernels_is_a_link_to_a_folder_without_init() -> None:
    assert (PACKAGE / "kernels").is_symlink()
    assert os.readlink(PACKAGE / "kernels") == "../kernels"
    assert (ROOT / "kernels").is_dir()
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "conftest.py").exists()


@pytest.mark.thorough
def test_transformers_imports_from_the_root_beside_a_package_named_kernels(tmp_path: Path) -> None:
    """Hugging Face's package `kernels` must win over the root's folder of that name, and its absence must not matter."""
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("MARK = 'the real one'\n")
    code = (
        "import os, sys, torch._dynamo, torch.distributed.tensor\n"  # what transformers imports as well, once for both
        "assert not {'kernels', 'transformers'} & set(sys.modules)\n"
        "child = os.fork()\n"
        "if not child: sys.path.insert(1, sys.argv[1])\n"  # where PYTHONPATH stands, behind the root
        "from transformers import BertModel\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "import kernels\n"
        "assert kernels.MARK == 'the real one', kernels\n"
        "print(BertModel.__name__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": ""}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "BertModel"


def test_everything_but_the_kernels_works_without_triton(tmp_path: Path) -> None:
    """On macOS and Windows there is none: a finder that hides it stands in for those systems."""
    code = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'triton': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'triton' else real(name, *a)\n"
        "import torch, fastbert\n"
        "m = fastbert.BertModel(fastbert.BertConfig.of_size('tiny')).eval()\n"
        "print(tuple(m(torch.ones(1, 4, dtype=torch.long)).last_hidden_state.shape))\n"
        "try:\n"
        "    with fastbert.backend('triton'): m(torch.ones(1, 4, dtype=torch.long))\n"
        "except fastbert.FastbertError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "(1, 4, 128)" in run.stdout
    assert "the package triton is not installed" in run.stdout


def test_the_map_in_the_package_names_every_module() -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))) or ""
    for name in {owner(path) for path in sources(PACKAGE)} - {"__init__"}:
        assert (f"{name}/" if (PACKAGE / name).is_dir() else f"{name}.py") in text, name


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
