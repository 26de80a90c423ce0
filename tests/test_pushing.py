"""Models, tokenizers and configurations are pushed through huggingface_hub; what goes wrong there is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import huggingface_hub
import pytest
from conftest import make_pair
from task_cases import save_encoder, tokenizer

import fastbert
from fastbert.errors import HubError

OFFLINE = "http://127.0.0.1:9"  # nobody listens there


class Hub:
    """Stands in for the hub's client: notes what is asked, and keeps the files."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    files: ClassVar[dict[str, bytes]] = {}

    def __init__(self, token: Any = None) -> None:
        Hub.asked.append(("client", {"token": token}))

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        Hub.asked.append(("create", {"repo_id": repo_id, **options}))
        return SimpleNamespace(repo_id=f"someone/{repo_id}" if "/" not in repo_id else repo_id)

    def upload_folder(self, *, folder_path: str, **options: Any) -> Any:
        Hub.asked.append(("upload", options))
        Hub.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url=f"https://hub/{options['repo_id']}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.asked, Hub.files = [], {}
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub


@pytest.mark.parametrize("what", ["model", "config", "tokenizer"])
def test_what_is_saved_is_what_is_pushed(what: str, hub: type[Hub], tmp_path: Path) -> None:
    model, _ = make_pair("BertForSequenceClassification")
    one = {"model": model, "config": model.config, "tokenizer": tokenizer()}[what]
    one.save_pretrained(tmp_path / "saved")
    address = one.push_to_hub("my-bert", private=True, token="t", revision="new", create_pr=True, commit_description="why")
    assert address == "https://hub/someone/my-bert/commit/1"
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    upload = {"repo_id": "someone/my-bert", "commit_message": f"Upload {type(one).__name__}", "commit_description": "why"}
    assert hub.asked == [
        ("client", {"token": "t"}),
        ("create", {"repo_id": "my-bert", "private": True, "exist_ok": True}),
        ("upload", {**upload, "revision": "new", "create_pr": True}),
    ]


def test_saving_may_push_as_well(hub: type[Hub], tmp_path: Path) -> None:
    model, _ = make_pair("BertModel")
    model.save_pretrained(tmp_path / "named-so", push_to_hub=True, commit_message="first")
    assert hub.asked[1][1]["repo_id"] == "named-so"
    assert hub.asked[2][1]["commit_message"] == "first"
    assert (tmp_path / "named-so" / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    tokenizer().save_pretrained(tmp_path / "tok", push_to_hub=True, repo_id="me/tok")
    assert hub.asked[-1][1]["repo_id"] == "me/tok"
    assert "vocab.txt" in hub.files


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", OFFLINE)
    before = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: before(endpoint=OFFLINE, token=token))
    model, _ = make_pair("BertModel")
    with pytest.raises(HubError, match="cannot push to my-bert: ") as found:
        model.push_to_hub("my-bert", token="t")
    assert "\n" not in str(found.value)


def test_a_refusal_of_the_hub_is_one_sentence(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise PermissionError("401 Unauthorized\nlog in first")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(HubError, match=r"cannot push to x: 401 Unauthorized \(PermissionError\)$"):
        tokenizer().push_to_hub("x")


def test_a_new_model_does_not_carry_the_name_of_the_old_one(tmp_path: Path) -> None:
    from task_cases import texts

    from fastbert.finetuning import FineTuneOptions, finetune

    encoder = save_encoder(tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text()) | {"_name_or_path": "someone/old-bert"}
    (encoder / "config.json").write_text(json.dumps(config))
    model = fastbert.BertModel.from_pretrained(encoder)
    assert model.config.name_or_path == str(encoder)
    model.save_pretrained(tmp_path / "again")
    finetune("classify", encoder, texts(8, 0), output=tmp_path / "run", options=FineTuneOptions(epochs=1), device="cpu")
    for folder in (tmp_path / "again", tmp_path / "run" / "model"):
        assert "_name_or_path" not in json.loads((folder / "config.json").read_text())
        assert fastbert.BertConfig.from_pretrained(folder).name_or_path == str(folder)
