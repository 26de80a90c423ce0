"""README, docs and examples: every block runs, every link leads somewhere, and what is generated is new."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub import make_hub

import fastbert

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOGETHER = {  # pages that one process runs, one after the other
    "using": ["README.md", "docs/index.md", "docs/embedding.md", "docs/migration.md", "docs/packing.md", "docs/kernels.md"],
    "training": ["docs/finetuning.md", "docs/pretraining.md"],
    "beside others": ["docs/patching.md", "docs/integrations.md", "docs/bulk.md", "docs/server.md", "docs/commands.md"],
}
sys.path.insert(0, str(ROOT / "docs"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Mapping[str, str]:
    return make_hub(tmp_path_factory.mktemp("hub"), minilm)


# -- every block runs ----------------------------------------------------------------------------------------------------------


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Labelled rows of a task, a few of each label."""
    texts = ["a good film", "a bad film", "I liked it", "I did not like it"] * 4
    if kind == "nli":
        names = ["entailment", "contradiction", "neutral", "entailment"] * 4
        return [
            {"sentence1": text, "sentence2": "It was good.", "label": name} for text, name in zip(texts, names, strict=True)
        ]
    return [{"text": text, "label": ("good", "bad")[n % 2]} for n, text in enumerate(texts)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)


def write_questions(path: Path) -> None:
    context = "She was born in London."
    qas = [{"id": str(n), "question": "Where?", "answers": [{"text": "London", "answer_start": 16}]} for n in range(4)]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}))


def write_files(page: str, folder: Path, minilm: Path) -> None:
    """The files that a page names, as small as they may be."""
    (folder / "sentences.txt").write_text("A first text.\nAnd another.\nA third one.\n")
    (folder / "texts.txt").write_text("A first text.\nAnd another.\n")
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        write_table(folder / name, rows_of("nli" if page == "finetuning.md" else "classify"))
    write_table(folder / "reviews.csv", [{"id": n, "text": row["text"]} for n, row in enumerate(rows_of("classify"))])
    pairs = [{"key": n, "source": "x", **row} for n, row in enumerate(rows_of("nli"))]
    write_table(
        folder / "pairs.tsv", [{name: row[name] for name in ("key", "source", "sentence1", "sentence2")} for row in pairs]
    )
    for name in ("train.conll", "dev.conll"):
        (folder / name).write_text("Ada B-PER\nLovelace I-PER\nwas O\nborn O\nin O\nLondon B-LOC\n\n" * 6)
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        write_questions(folder / name)
    (folder / "books").mkdir()
    book = "The cat sat on the mat. It was a good cat.\nThe dog ran to the park. It was a quick dog.\n\n"
    for number in range(3):
        (folder / "books" / f"{number}.txt").write_text("".join(book.replace("cat", f"cat{n}") for n in range(150)))
    (folder / "corpus").mkdir(exist_ok=page != "pretraining.md")
    if page == "pretraining.md":
        (folder / "corpus").rmdir()
    if page in ("bulk.md", "integrations.md"):
        write_models(folder, minilm)
        lines = [{"doc_id": n, "text": "a text", "title": "t", "url": "u"} for n in range(6)]
        (folder / "corpus" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(lines), folder / "more.parquet")


def write_models(folder: Path, minilm: Path) -> None:
    tokenizer = fastbert.BertTokenizer.from_pretrained(minilm)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    labels = {"my-model": 2, "my-bert": 2, "sentiment/model": 2, "my-reranker": 1}
    for name, count in labels.items():
        config = fastbert.BertConfig(vocab_size=len(tokenizer), num_labels=count, **sizes)
        fastbert.BertForSequenceClassification(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def test_every_page_with_blocks_is_run() -> None:
    with_blocks = {str(page.relative_to(ROOT)) for page in PAGES if "```" in page.read_text(encoding="utf-8")}
    assert with_blocks == {name for names in TOGETHER.values() for name in names}


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_every_block_runs(names: list[str], hub: Mapping[str, str], minilm: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / Path(name).stem for name in names}
    for name, place in places.items():
        place.mkdir()
        write_files(Path(name).name, place, minilm)
    env = {**os.environ, **hub, "HOME": str(tmp_path)}
    given = [f"{ROOT / name}={place}" for name, place in places.items()]
    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), *given]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_a_block_that_fails_and_a_quotation_that_is_not_there_are_seen(tmp_path: Path) -> None:
    blocks = {
        "python": "```python\nassert 1 == 2\n```\n",
        "command": "```sh\nfastbert params --size huge\n```\n",
        "quotation": '```python title="README.md"\nnobody says this\n```\n',
        "language": "```\nno language\n```\n",
        "target": "```sh\nmake nothing-of-the-kind\n```\n",
    }
    for name, block in blocks.items():
        (tmp_path / "page.md").write_text(f"# {name}\n\n{block}")
        command = [sys.executable, str(ROOT / "tests" / "run_page.py"), f"{tmp_path / 'page.md'}={tmp_path}"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0, name


# -- every link leads somewhere ------------------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks" / "README.md",
        ROOT / "examples" / "README.md",
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        if "://" in name:
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_docs_build_without_a_warning_and_need_no_outside_address(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(?:script|img|iframe)[^>]+src=["']?https?:""", text), page
        assert not re.search(r"""<link[^>]+href=["']?https?:""", text), page
        assert "@import" not in text, page


# -- what they say -------------------------------------------------------------------------------------------------------------


def test_readme_has_at_most_900_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_generated_tables_and_pictures_are_new(tmp_path: Path) -> None:
    import generated

    for name, (marks, block) in generated.TABLES.items():
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert marks[0] + page.split(marks[0])[1].split(marks[1])[0] + marks[1] == block(), name
    for name, draw in generated.PICTURES.items():
        draw(tmp_path / name)
        assert words_of(tmp_path / name) == words_of(ROOT / "docs" / "images" / name), name


def test_tables_have_their_rows_on_one_line_each() -> None:
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("|"):
                assert line.endswith("|"), f"{page.name}, line {number + 1}"


def words_of(picture: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text(encoding="utf-8"))


def test_the_picture_of_the_gain_shows_committed_figures() -> None:
    from benchmarks.speed import records

    rates = {f"{row['texts_per_s']:,.0f}" for _, rows in records.newest() for row in rows if row.get("texts_per_s")}
    rates |= {f"{row['texts_per_s']:.1f}" for _, rows in records.newest() for row in rows if row.get("texts_per_s")}
    labels = [
        word
        for word in words_of(ROOT / "docs" / "images" / "gain.svg")
        if re.search(r"  ?[\d,.]+$", word) and word[0].isalpha()
    ]
    assert len(labels) > 10
    assert all(label.split()[-1] in rates for label in labels if label.split()[0] not in ("NVIDIA", "full"))


def test_the_gain_of_bfloat16_on_a_cpu_is_a_committed_figure() -> None:
    from benchmarks.speed import records

    found = (row for path, rows in records.newest() if "intel" in path.parent.name for row in rows)
    rates = {
        (row["dtype"], row["case"]): row["texts_per_s"]
        for row in found
        if (row["suite"], row["candidate"]) == ("inference", "fastbert") and row["model"].startswith("all-MiniLM-L6")
    }
    natural, full = (rates["bfloat16", case] / rates["float32", case] for case in ("natural", "full 128"))
    page = " ".join((ROOT / "docs" / "embedding.md").read_text(encoding="utf-8").split())
    assert f"runs {natural:.1f} times as fast on paragraphs and {full:.1f} times as fast on texts of 128 tokens" in page


def test_every_variable_is_in_the_table() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    sources = [ROOT / name for name in listed if name.endswith(".py") or name == "Makefile"] or list(ROOT.rglob("*.py"))
    used = {name for path in sources for name in re.findall(r"FASTBERT_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8"))}
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^\| `(FASTBERT_[A-Z_]+)` \|", page, re.M))


def test_every_exit_code_is_in_the_table() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| ", page, re.M)
    assert {int(code) for row in rows for code in row.split(",")} == {0, 1, 2, 129, 130, 143, 141}


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = set(re.findall(r"^::: fastbert\.(\S+)", pages, re.M))
    assert set(fastbert.__all__) - {"FastbertError", "ops", *named} == set()
    for module in ("tasks", "bulk", "training", "finetuning"):
        wanted = {f"{module}.{name}" for name in getattr(fastbert, module).__all__} - {"finetuning.Split", "bulk.Job"}
        assert wanted <= named, module


# -- examples ------------------------------------------------------------------------------------------------------------------

EXAMPLES = {  # arguments that keep them short, and a word of what each must print
    "answer_questions.py": (["{notes}", "What does heapq.heappush do?", "24"], "heapq.txt"),
    "bulk_on_ray.py": ([], "384 numbers a vector"),
    "export_onnx.py": ([], "largest difference at a token"),
    "finetune_from_csv.py": (["1"], "held-out sentences"),
    "late_chunking.py": ([], "one forward for the page"),
    "own_tags.py": (["40"], "F1 on 10 held-out sentences"),
    "patch_sentence_transformers.py": (["40"], "times as fast"),
    "pretrain_in_minutes.py": (["{notes}/run", "20"], "masked_lm_loss"),
    "rerank.py": ([], "str.strip"),
    "search_documentation.py": (["how is a file closed?"], "paragraphs"),
}


def test_there_are_ten_short_examples_and_each_is_described() -> None:
    found = sorted((ROOT / "examples").glob("*.py"))
    assert [path.name for path in found] == sorted(EXAMPLES)
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, path
        assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or ""), path
        assert f"[{path.name}]({path.name})" in page, path


# Ray Data takes most of a minute to start; test_ray.py calls the same actor class.
_SLOW = {"bulk_on_ray.py": pytest.mark.thorough}


@pytest.fixture(scope="module")
def example_folders(
    request: pytest.FixtureRequest, hub: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Runs the examples of this session's tests in one process, each in a folder where nothing of a checkout is imported."""
    asked = (item for item in request.session.items if getattr(item, "originalname", "") == "test_an_example_runs")
    folders = {item.callspec.params["name"]: tmp_path_factory.mktemp("example") for item in asked}  # type: ignore[attr-defined]
    for name, folder in folders.items():
        (folder / "notes").mkdir()
        (folder / "notes" / "heapq.txt").write_text(
            "heapq.heappush: Push item onto heap, maintaining the heap invariant.\n\nheapq.heappop: Pop it.\n"
        )
        given = [argument.format(notes=folder / "notes") for argument in EXAMPLES[name][0]]
        (folder / "arguments.json").write_text(json.dumps(given))
        shutil.copy(ROOT / "examples" / name, folder)
    env = {**os.environ, **hub, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    command = [sys.executable, str(ROOT / "tests" / "run_examples.py"), *map(str, folders.values())]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folders


@pytest.mark.parametrize("name", [pytest.param(name, marks=_SLOW.get(name, ())) for name in EXAMPLES])
def test_an_example_runs(name: str, example_folders: Mapping[str, Path]) -> None:
    failure = example_folders[name] / "failure.txt"
    assert not failure.exists(), failure.read_text()
    assert EXAMPLES[name][1] in (example_folders[name] / "stdout.txt").read_text()


# -- the first vector ----------------------------------------------------------------------------------------------------------


def test_the_first_vector_came_within_five_minutes() -> None:
    """As `benchmarks/first_vector.py` measured it."""
    found = json.loads((ROOT / "benchmarks" / "results" / "first_vector.json").read_text())
    assert found["total_s"] <= 300
    assert found["total_s"] == pytest.approx(sum(found["seconds"].values()), abs=0.1)
    assert found["shown"].startswith("(2, 384)")


def test_what_pip_fetches_is_counted() -> None:
    from benchmarks.first_vector import block_of_readme, fetched

    lines = ["Collecting numpy", "  Downloading numpy-2-cp311.whl (16.8 MB)", "  Downloading a-1.whl (19 kB)"]
    assert fetched("\n".join([*lines, "Processing /a/torch-2.whl", "  Downloading b.whl.metadata (2.1 kB)"])) == (3, 16.819e6)
    assert "Embedder.from_pretrained(" in block_of_readme((ROOT / "README.md").read_text(encoding="utf-8"))
