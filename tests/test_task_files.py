"""Files of examples: tables, CoNLL, SQuAD's JSON, tags; each bad file is answered by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastbert.data.conll import read_tagged
from fastbert.data.labelled import ChoiceExample, TextExample, read_choice_examples, read_text_examples
from fastbert.data.layouts import LAYOUTS, Layout, find_layout
from fastbert.data.squad import misplaced, read_squad
from fastbert.data.tables import read_table
from fastbert.data.tags import SCHEMES, Span, all_tags, convert, find_scheme, illegal, spans
from fastbert.errors import InputError
from fastbert.finetuning.problems import Split
from fastbert.finetuning.reading import ReadOptions, hold_out, read_split


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_tables_of_all_forms_give_the_same_examples(tmp_path: Path) -> None:
    expected = [TextExample('one "quoted"', "two", "yes"), TextExample("three, four", "", "no")]
    files = [
        write(tmp_path / "a.tsv", '\ufeffsentence1\tsentence2\tlabel\r\none "quoted"\ttwo\tyes\r\nthree, four\t\tno\r\n'),
        write(tmp_path / "a.csv", 'id,sentence1,sentence2,label\n1,"one ""quoted""",two,yes\n2,"three, four",,no\n'),
        write(
            tmp_path / "a.jsonl",
            "".join(json.dumps({"sentence1": e.text, "sentence2": e.pair, "label": e.label}) + "\n" for e in expected),
        ),
    ]
    for path in files:
        assert read_text_examples(path, find_layout(path))[0] == expected, path
    bare = write(tmp_path / "b.tsv", 'x\tone "quoted"\ttwo\tyes\nx\tthree, four\t\tno\n')
    assert read_text_examples(bare, find_layout(bare, text="2", pair="3", label="4"))[0] == expected


def test_a_quoted_cell_may_hold_lines_and_later_errors_name_the_right_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"one\ntwo",x\nthree,x,surplus\n')
    with pytest.raises(InputError, match=r"a\.csv, line 4: 3 columns, the header has 2"):
        read_table(path, ["text", "label"])
    table = read_table(path, ["text", "label"], skip_ragged=True)
    assert (table.values["text"], table.lines, table.skipped) == (["one\ntwo"], [2], 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "sentence\tscore\nx\t1\n", r"a\.tsv has no column 'label'; it has sentence, score"),
        ("a.tsv", "", r"a\.tsv is empty; expected a header row"),
        ("a.tsv", "text\tlabel\n", r"a\.tsv holds no example"),
        ("a.tsv", "text\tlabel\nonly\n", r"a\.tsv, line 2: 1 columns, the header has 2"),
        ("a.csv", 'text,label\n"open,x\n', r"a\.csv, line 2: "),
        ("a.jsonl", '{"text": "x"}\n', r"a\.jsonl, line 1: no key 'label'; it has text"),
        ("a.jsonl", '{"text": 3, "label": "x"}\n', r"a\.jsonl, line 1: 'text' is a int; expected text"),
        ("a.jsonl", "nonsense\n", r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"text": "x", "label": 1.5}\n', r"a\.jsonl, line 1: the label 1\.5 is not a name"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_text_examples(write(tmp_path / name, text), Layout("text" if "sentence" not in text else "sentence", "", "label"))


def test_numbers_must_be_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\nx\t1.5\ny\tmuch\n")
    with pytest.raises(InputError, match=r"line 3: the label 'much' is not a number"):
        read_text_examples(path, Layout("text", "", "label"), "number")


def test_a_table_without_known_columns_lists_those_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "one\ttwo\nx\ty\n")
    with pytest.raises(InputError, match="no column known to hold text; name one of one, two"):
        find_layout(path)
    with pytest.raises(InputError, match="no column known to hold labels"):
        find_layout(path, text="one")
    with pytest.raises(InputError, match="layout = 'glue' is not one of cola"):
        find_layout(path, "glue")
    with pytest.raises(InputError, match="either all are names, or all are numbers"):
        read_table(path, ["1", "two"])


def test_glue_layouts_have_the_metrics_of_their_tasks() -> None:
    assert LAYOUTS["cola"].metrics == ("matthews_correlation",)
    assert LAYOUTS["stsb"].metrics == ("pearson", "spearman")
    for name in ("mrpc", "qqp"):
        assert LAYOUTS[name].metrics == ("accuracy", "f1")
    for name in ("mnli", "sst2", "qnli", "rte"):
        assert LAYOUTS[name].metrics == ("accuracy",)


def test_several_labels_and_choices_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabels\nx\tb, a,b\ny\t\n")
    assert [e.label for e in read_text_examples(path, find_layout(path), "names")[0]] == [("b", "a"), ()]
    swag = write(tmp_path / "s.csv", "sent1,sent2,ending0,ending1,ending2,ending3,label\nA,He,runs,sits,is,was,2\n")
    assert read_choice_examples(swag, LAYOUTS["swag"])[0] == [ChoiceExample("A", ("He runs", "He sits", "He is", "He was"), 2)]
    path = write(tmp_path / "c.jsonl", '{"text": "A", "choices": ["b", "c"], "label": 2}\n')
    with pytest.raises(InputError, match=r"line 1: the label 2 is not the number of a candidate \(0\.\.1\)"):
        read_choice_examples(path, Layout("text", "", "label", (), ("choices",)))


def test_pairs_without_an_agreed_label_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "premise\thypothesis\tgold_label\na\tb\t-\nc\td\tneutral\ne\tf\tentailment\n")
    split = read_split("nli", path, "train", ReadOptions())
    assert [e.label for e in split.examples] == ["neutral", "entailment"]
    assert "1 pairs have no agreed label" in split.notes[0]
    assert split.where(1).endswith("line 4")


def test_a_share_is_held_out_and_keeps_its_places(tmp_path: Path) -> None:
    split = Split("train", list(range(10)), lambda n: f"line {n}")
    train, dev = hold_out(split, 0.3, 0)
    assert sorted(train.examples + dev.examples) == list(range(10))
    assert len(dev.examples) == 3
    assert all(dev.where(i) == f"line {value}" for i, value in enumerate(dev.examples))
    with pytest.raises(InputError, match="leaves no example"):
        hold_out(split, 0.01, 0)


# -- CoNLL and tags ---------------------------------------------------------------------------------------------------------


def test_conll_is_split_at_tabs_or_white_space_and_at_blank_lines(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\t\nNew York\tB-LOC\n"
    found = read_tagged(write(tmp_path / "a.conll", text))
    assert [s.words for s in found] == [("EU", "rejects"), ("New York",)]
    assert [s.tags for s in found] == [("B-ORG", "O"), ("B-LOC",)]
    assert [s.line for s in found] == [3, 6]
    words = read_tagged(write(tmp_path / "b.conll", "a\nb\n"), tagged=False)
    assert (words[0].words, words[0].tags) == (("a", "b"), None)


def test_conll_errors_name_the_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.conll, line 2: 1 columns; expected a word and its tag"):
        read_tagged(write(tmp_path / "a.conll", "a\tO\nb\n"))
    with pytest.raises(InputError, match="holds no example"):
        read_tagged(write(tmp_path / "a.conll", "\n\n"))
    with pytest.raises(InputError, match="line 1: 2 words; 'tags' is not a list of as many tags"):
        read_tagged(write(tmp_path / "a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n'))
    with pytest.raises(InputError, match="no key known to hold tags"):
        read_tagged(write(tmp_path / "a.jsonl", '{"tokens": ["a", "b"]}\n'))


WRITTEN = {
    "IOB1": ["I-a", "I-a", "B-a", "O", "I-b", "I-a"],
    "IOB2": ["B-a", "I-a", "B-a", "O", "B-b", "B-a"],
    "IOBES": ["B-a", "E-a", "S-a", "O", "S-b", "S-a"],
    "BILOU": ["B-a", "L-a", "U-a", "O", "U-b", "U-a"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_convert_into_one_another(scheme: str) -> None:
    assert spans(WRITTEN[scheme]) == [Span("a", 0, 2), Span("a", 2, 3), Span("b", 4, 5), Span("a", 5, 6)]
    for other, tags in WRITTEN.items():
        assert convert(tags, scheme) == WRITTEN[scheme], other
    assert find_scheme([WRITTEN[scheme]]) == scheme
    assert not illegal(WRITTEN[scheme], scheme)


def test_spans_agree_with_seqeval_on_every_short_sequence() -> None:
    from itertools import product

    from seqeval.metrics.sequence_labeling import get_entities

    for tags in product(("O", "B-x", "I-x", "B-y", "I-y"), repeat=4):
        assert [(s.kind, s.start, s.end - 1) for s in spans(tags)] == get_entities(list(tags)), tags


def test_broken_rules_are_found_and_mended() -> None:
    tags = ["O", "I-a", "I-a", "O", "B-a", "I-b"]
    assert illegal(tags, "IOB2") == [1, 5]
    assert convert(tags, "IOB2") == ["O", "B-a", "I-a", "O", "B-a", "B-b"]
    assert find_scheme([["NOUN", "VERB"]]) is None
    assert all_tags({"B-x", "O"}, "IOB2") == {"B-x", "I-x", "O"}


# -- SQuAD ------------------------------------------------------------------------------------------------------------------


def squad(tmp_path: Path, *questions: dict, context: str = "The cat sat on the mat. The cat ran.") -> Path:
    content = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    return write(tmp_path / "squad.json", json.dumps(content))


def test_answers_are_found_where_they_stand_or_nearest(tmp_path: Path) -> None:
    path = squad(
        tmp_path,
        {"id": "1", "question": "q", "answers": [{"text": "cat", "answer_start": 4}]},
        {"id": "2", "question": "q", "answers": [{"text": "cat", "answer_start": 27}]},
        {"id": "3", "question": "q", "answers": [{"text": "dog", "answer_start": 4}]},
        {"id": "4", "question": "q", "answers": [], "is_impossible": True},
    )
    found = read_squad(path)
    assert [[a.start for a in q.answers] for q in found] == [[4], [28], [-1], []]
    assert [q.id for q in misplaced(found)] == ["3"]
    assert found[3].impossible


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "is not JSON"),
        ("{}", "has no list 'data': this is not SQuAD's JSON"),
        ('{"data": []}', "holds no question"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\]\.paragraphs\[0\] has no text under 'context'"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q"}]}]}]}', r"qas\[0\] has no id"),
    ],
)
def test_other_json_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_squad(write(tmp_path / "a.json", content))


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    row = {"id": "1", "question": "q", "answers": []}
    with pytest.raises(InputError, match="the id '1' occurs twice"):
        read_squad(squad(tmp_path, row, row))


# -- real files -------------------------------------------------------------------------------------------------------------


def test_real_files_are_read_whole(test_data: Path) -> None:
    for name, layout, kind, count in (
        ("sst2/train.tsv", None, "classify", 67349),
        ("mrpc/msr_paraphrase_test.txt", "mrpc", "classify", 1725),
        ("stsb/sts-test.tsv", "sts-benchmark", "regress", 1379),
        ("cad-nli/train.tsv", None, "nli", 8330),
        ("wnut17/wnut17train.conll", None, "ner", 3394),
        ("wnut17/emerging.test.annotated", None, "ner", 1287),
        ("squad/dev-v1.1.json", None, "qa", 10570),
        ("squad/train-5pct.json", None, "qa", 4253),
    ):
        split = read_split(kind, test_data / name, "train", ReadOptions(layout=layout))
        assert len(split.examples) == count, name
