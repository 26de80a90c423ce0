"""Reads a folder of sentence-transformers: where its BERT is, and what stands behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastbert import files, schema
from fastbert.errors import CheckpointError
from fastbert.model.pooling import MODES, modes_of_config
from fastbert.tasks.similarity import MEASURES
from fastbert.tasks.vectors import Dense, Normalize

_TEXT = schema.text()
# One of these files holds the limits of the Transformer module; sentence-transformers names it after the model type.
_LIMITS = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
SENTENCE_FILES = ["modules.json", "config_sentence_transformers.json", "*_Pooling/config.json", "*_Dense/*"]
SENTENCE_FILES += [pattern for name in (*_LIMITS, "modules.json") for pattern in (name, f"*/{name}")]
_MODULE_FIELDS = {"idx": schema.integer(0), "name": _TEXT, "path": _TEXT, "type": schema.text(null=False)}
_LIMIT_FIELDS = {"max_seq_length": schema.integer(1), "do_lower_case": schema.flag()}
_POOLING_FIELDS = {
    "word_embedding_dimension": schema.integer(1),
    "embedding_dimension": schema.integer(1),
    "include_prompt": schema.flag(),
    **dict.fromkeys(MODES.values(), schema.flag()),
    "pooling_mode": schema.either(_TEXT, schema.list_of(schema.text(null=False))),
}
_PROMPT_FIELDS = {
    "prompts": schema.object_of(_TEXT),
    "default_prompt_name": _TEXT,
    "truncate_dim": schema.integer(1),
    "max_active_dims": schema.integer(1),
    "similarity_fn_name": schema.choice(*MEASURES),
}


def read_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the BERT and keyword arguments for `Embedder`, from a sentence-transformers folder.

    A plain BERT folder gives no keyword arguments.

    Raises:
        CheckpointError: an unknown module or setting; the message names it.
    """
    if not (folder / "modules.json").is_file():
        return folder, {}
    settings: dict[str, Any] = {"normalize": False, "layers": [], "include_prompt": True}
    place = folder
    for kind, path in read_modules(folder):
        if kind == "Pooling":
            config = _read(path / "config.json", _POOLING_FIELDS)
            settings["pooling"] = modes_of_config(config)
            settings["include_prompt"] = config.get("include_prompt") is not False
        elif kind == "Normalize":
            settings["normalize"] = True
        elif kind == "Dense":
            settings["layers"] += [Normalize()] if settings["normalize"] else []
            settings["layers"].append(Dense.from_folder(path))
            settings["normalize"] = False
        elif kind == "Transformer":
            place = path
        else:
            what = f"{folder / 'modules.json'} has a module {schema.shown(kind)}"
            raise CheckpointError(f"{what}; fastbert knows Transformer, Pooling, Dense, Normalize")
    prompts, saved = read_prompts(folder, place)
    settings["truncate_dim"] = saved.get("truncate_dim")
    settings["measure"] = saved.get("similarity_fn_name") or "cosine"
    return place, {**settings, **prompts}


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """The kinds of a folder's modules, without their package, and where each is.

    Raises:
        CheckpointError: a module outside the folder, or a file that is no list of modules.
    """
    found = []
    for module in files.read_json_list(folder / "modules.json"):
        schema.check(module, _MODULE_FIELDS, folder / "modules.json")
        kind, path = str(module.get("type", "")).rsplit(".", 1)[-1], str(module.get("path") or "")
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise CheckpointError(f"{folder / 'modules.json'} has a module at {schema.shown(path)}, outside its folder")
        found.append((kind, folder / path))
    return found


def read_prompts(folder: Path, place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments for `Prompted`, and all that stands beside the prompts.

    Args:
        folder: of sentence-transformers.
        place: of the BERT in it.

    Raises:
        CheckpointError: a default prompt that does not exist.
    """
    limits = next((place / name for name in _LIMITS if (place / name).is_file()), None)
    sentence = {} if limits is None else _read(limits, _LIMIT_FIELDS)
    path = folder / "config_sentence_transformers.json"
    saved = _read(path, _PROMPT_FIELDS) if path.is_file() else {}
    known, name = saved.get("prompts") or {}, saved.get("default_prompt_name")
    if name is not None and name not in known:
        listed = ", ".join(map(schema.shown, list(known)[:5])) or "none"
        raise CheckpointError(f"{path}: default_prompt_name = {schema.shown(name)} is not one of its prompts: {listed}")
    return {
        "max_length": sentence.get("max_seq_length"),
        "do_lower_case": bool(sentence.get("do_lower_case")),
        "prompt": (known[name] or "") if name is not None else "",
        "prompts": {key: text or "" for key, text in known.items()},
    }, saved


def _read(path: Path, fields: schema.Fields) -> dict[str, Any]:
    return schema.check(files.read_json(path), fields, path)
