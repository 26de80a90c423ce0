"""The server: the answers of each head equal the offline tasks', other services' clients work unchanged, limits hold, and
nothing accepted is lost."""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_cases import Running, client_of, listening
from task_cases import save_encoder, save_head, texts

from benchmarks import serving
from fastbert import cli
from fastbert.errors import InputError
from fastbert.packing.batching import run
from fastbert.serving.loop import CancelledError, Loop, Ticket
from fastbert.serving.settings import FROM_ENVIRONMENT, Settings, from_environment
from fastbert.tasks import NLI, Classifier, Embedder, FillMask, NextSentence, QuestionAnswerer, Reranker, TokenTagger
from fastbert.text.framing import Framed

THREE = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}, "num_labels": 3}
TAGS = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "num_labels": 3}
VALUES = [one.text for one in texts(12, seed=8)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def vectors(encoder: Path) -> np.ndarray:
    found: np.ndarray = Embedder.from_pretrained(encoder, "cpu").encode(VALUES)
    return found


# -- the loop ------------------------------------------------------------------------------------------------------------------


def rows_of(*lengths: int, first: int = 0) -> Framed:
    return Framed.of_rows([[first + at] * length for at, length in enumerate(lengths)])


class Recorder:
    """A step that records its batches, and may be made to wait."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, batch: Any) -> list[torch.Tensor]:
        self.gate.wait(10)
        self.batches.append(batch.lengths.tolist())
        firsts = batch.input_ids[batch.cu_seqlens[:-1].long()]
        return [firsts.float(), batch.input_ids.float()]


def collect(loop: Loop, framed: Framed, step: Any, key: Any = ("x",), ticket: Ticket | None = None) -> list[Any]:
    """For each row what came back: its first id, and all ids."""
    found: list[Any] = [None] * len(framed)
    for rows, (firsts, ids) in loop.runner(ticket or Ticket())(framed, step, key):
        parts = ids.split(framed.lengths[rows].tolist())
        for row, one, part in zip(rows.tolist(), firsts.tolist(), parts, strict=True):
            found[row] = (one, part.tolist())
    return found


def test_rows_of_several_requests_share_batches_and_come_back_to_each() -> None:
    loop, step = Loop(torch.device("cpu"), 64, wait=5), Recorder()
    asked = [rows_of(5, 9, 3, first=10), rows_of(7, first=20), rows_of(2, 30, first=30)]
    tickets = [Ticket() for _ in asked]
    for ticket in tickets:
        loop.announce(ticket)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda pair: collect(loop, pair[0], step, ticket=pair[1]), zip(asked, tickets, strict=True)))
    for framed, results in zip(asked, found, strict=True):
        for row, (one, ids) in enumerate(results):
            assert ids == framed.row(row).tolist()
            assert one == ids[0]
    assert sum(map(len, step.batches)) == 6
    assert len(step.batches) == 1, "56 tokens fit into a batch"
    assert loop.tokens_done == 56
    loop.stop()


def test_a_short_request_passes_a_long_one_and_both_end() -> None:
    loop, step = Loop(torch.device("cpu"), 20, wait=0.0), Recorder()
    step.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        long = pool.submit(collect, loop, rows_of(*[10] * 40), step)
        while loop.queued_tokens != 380:  # the first batch of it is running
            time.sleep(0.001)
        short = pool.submit(collect, loop, rows_of(4, first=7), step)
        while loop.queued_tokens < 384:
            time.sleep(0.001)
        step.gate.set()
        assert short.result(10) == [(7.0, [7] * 4)]
        assert len(long.result(10)) == 40
    place = next(at for at, lengths in enumerate(step.batches) if 4 in lengths)
    assert place == 1, step.batches
    assert all(sum(lengths) <= 20 for lengths in step.batches)
    loop.stop()


def test_steps_of_other_keys_have_batches_of_their_own_and_a_row_above_the_budget_goes_alone() -> None:
    loop, one, other = Loop(torch.device("cpu"), 16, wait=5), Recorder(), Recorder()
    tickets = [Ticket() for _ in range(4)]
    for ticket in tickets:
        loop.announce(ticket)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(collect, loop, rows_of(4, first=at), step, key, tickets[at])
            for at, (step, key) in enumerate([(one, ("a",)), (other, ("b",)), (one, None), (one, ("a",))])
        ]
        assert [job.result(10)[0][0] for job in jobs] == [0, 1, 2, 3]
    assert sorted(one.batches) == [[4], [4, 4]]
    assert other.batches == [[4]]
    assert collect(loop, rows_of(50), one) == [(0.0, [0] * 50)]
    assert list(loop.runner(Ticket())(rows_of(), one, None)) == []
    loop.stop()


def test_a_request_that_nobody_waits_for_leaves_the_queue_and_an_error_reaches_its_batch_alone() -> None:
    loop, step, ticket = Loop(torch.device("cpu"), 10, wait=0.0), Recorder(), Ticket()
    step.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(collect, loop, rows_of(10), step)
        while loop.queued_tokens:
            time.sleep(0.001)
        gone = pool.submit(collect, loop, rows_of(10), step, ("x",), ticket)
        while not loop.queued_tokens:
            time.sleep(0.001)
        ticket.cancelled = True
        step.gate.set()
        first.result(10)
        with pytest.raises(CancelledError):
            gone.result(10)
    assert len(step.batches) == 1

    def broken(_: Any) -> Any:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        collect(loop, rows_of(3), broken)
    assert collect(loop, rows_of(3), step) == [(0.0, [0] * 3)]
    loop.stop()


def test_without_a_shared_loop_run_is_as_before() -> None:
    step = Recorder()
    done = list(run(rows_of(3, 5), step, torch.device("cpu"), 100, name="x", key=()))
    assert [rows.tolist() for rows, _ in done] == [[1, 0]]


# -- what it answers -----------------------------------------------------------------------------------------------------------


def test_vectors_under_every_name(encoder: Path, vectors: np.ndarray) -> None:
    with client_of(encoder) as client:
        answer = client.post("/v1/embeddings", json={"input": VALUES, "model": "any"}).json()
        assert answer["model"] == "any"
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 12
        assert np.abs(np.array([row["embedding"] for row in answer["data"]]) - vectors).max() < 1e-6
        packed = client.post("/v1/embeddings", json={"input": VALUES[0], "encoding_format": "base64"}).json()["data"]
        assert np.abs(np.frombuffer(base64.b64decode(packed[0]["embedding"]), "<f4") - vectors[0]).max() < 1e-6
        ids = [
            [token["id"] for token in row]
            for row in client.post("/tokenize", json={"inputs": VALUES[:2], "add_special_tokens": False}).json()
        ]
        for given, wanted in ((ids, vectors[:2]), (ids[0], vectors[:1])):
            rows = client.post("/v1/embeddings", json={"input": given}).json()["data"]
            assert np.abs(np.array([row["embedding"] for row in rows]) - wanted).max() < 1e-6
        few = client.post("/v1/embeddings", json={"input": VALUES, "dimensions": 8}).json()["data"]
        assert np.abs(np.array([row["embedding"] for row in few]) - vectors[:, :8]).max() < 1e-6
        plain = client.post("/embed", json={"inputs": VALUES, "normalize": False}).json()
        assert np.abs(np.array(plain) - vectors).max() < 1e-6
        unit = np.array(client.post("/embed", json={"inputs": VALUES[0]}).json())
        assert np.abs(unit - vectors[:1] / np.linalg.norm(vectors[:1])).max() < 1e-6
        assert client.get("/v1/models").json()["data"][0]["id"] == "my-model"
        assert client.get("/health").status_code == 200
        facts = client.get("/info").json()
        assert (facts["task"], facts["dimensions"], facts["max_input_length"]) == ("embed", 64, 64)
        assert 'te_request_count_total{path="/v1/embeddings",status="200"} 5.0' in client.get("/metrics").text


def test_a_prompt_stands_before_texts_and_before_ids(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "model")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True, "include_prompt": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"q": "where is "}}))
    embedder = Embedder.from_pretrained(folder, "cpu")
    wanted = embedder.encode(VALUES[:3], prompt_name="q")
    with client_of(folder) as client:
        ids = [embedder.tokenizer.encode(text, add_special_tokens=False) for text in VALUES[:3]]
        for inputs in (VALUES[:3], ids):
            found = client.post("/embed", json={"inputs": inputs, "prompt_name": "q", "normalize": False}).json()
            assert np.abs(np.array(found) - wanted).max() < 1e-6


def test_pieces_have_their_characters(encoder: Path) -> None:
    with client_of(encoder) as client:
        (row,) = client.post("/tokenize", json={"inputs": "the cats!"}).json()
        assert [(one["text"], one["special"]) for one in row] == [
            ("[CLS]", True),
            ("the", False),
            ("cat", False),
            ("s", False),
            ("!", False),
            ("[SEP]", True),
        ]
        assert [(one["start"], one["stop"]) for one in row[1:-1]] == [(0, 3), (4, 7), (7, 8), (8, 9)]


def test_a_reranker_answers_as_cohere_s_and_as_text_embeddings_inference_does(tmp_path: Path) -> None:
    save_head(tmp_path, "BertForSequenceClassification", num_labels=1)
    scores = Reranker.from_pretrained(tmp_path, "cpu").predict([("where is the cat ?", text) for text in VALUES])
    order = np.argsort(-scores, kind="stable").tolist()
    with client_of(tmp_path) as client:
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            body = {"query": "where is the cat ?", "documents": VALUES, "top_n": 3, "return_documents": True}
            results = client.post(path, json=body).json()["results"]
            assert [row["index"] for row in results] == order[:3]
            assert [row["document"]["text"] for row in results] == [VALUES[at] for at in order[:3]]
            assert np.allclose([row["relevance_score"] for row in results], scores[order[:3]], atol=1e-6)
        rows = client.post("/rerank", json={"query": "where is the cat ?", "texts": VALUES, "return_text": True}).json()
        assert [row["index"] for row in rows] == order
        assert rows[0]["text"] == VALUES[order[0]]
        assert client.post("/rerank", json={"query": "x"}).status_code == 422
        assert client.post("/", json={"query": "where is the cat ?", "texts": VALUES, "return_text": True}).json() == rows
        assert client.post("/", content=b"{").status_code == 400
        answer = client.post("/v1/embeddings", json={"input": "x"})
        assert (answer.status_code, answer.json()) == (
            422,
            {"message": "this model gives no vectors: it answers rerank", "type": "Validation"},
        )


def close(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, dict):
        return bool(ours.keys() == theirs.keys()) and all(close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return bool(ours == (pytest.approx(theirs, abs=1e-5) if isinstance(theirs, float) else theirs))


def test_every_other_head_answers_under_predict(tmp_path: Path) -> None:
    pairs = list(zip(VALUES[:4], VALUES[4:8], strict=True))
    masked = [f"the [MASK] {text}" for text in VALUES[:3]]
    questions = [{"question": a, "context": b} for a, b in pairs]
    cases: list[tuple[str, dict[str, Any], str | None, Any, Any, list[Any]]] = [
        ("BertForSequenceClassification", THREE, None, Classifier, [[v] for v in VALUES], [VALUES, {"top_k": None}]),
        ("BertForSequenceClassification", THREE, "nli", NLI, pairs, [pairs, {"top_k": None}]),
        ("BertForNextSentencePrediction", {}, None, NextSentence, pairs, [pairs, {}]),
        ("BertForTokenClassification", TAGS, None, TokenTagger, VALUES, [VALUES, {}]),
        ("BertForQuestionAnswering", {}, None, QuestionAnswerer, questions, [pairs, {}]),
        ("BertForMaskedLM", {}, None, FillMask, masked, [masked, {}]),
    ]
    for number, (name, fields, kind, task, inputs, (asked, options)) in enumerate(cases):
        folder = tmp_path / str(number)
        save_head(folder, name, **fields)
        wanted = task.from_pretrained(folder, "cpu").predict(asked, **options)
        if task is NextSentence:
            wanted = [[row] for row in wanted]
        with client_of(folder, kind) as client:
            found = client.post("/predict", json={"inputs": inputs})
            assert found.status_code == 200, found.text
            assert close(found.json(), wanted), name
            if task is Classifier:
                assert close(client.post("/predict", json={"inputs": VALUES[0], "top_k": 2}).json(), wanted[0][:2])
                pair = client.post("/predict", json={"inputs": VALUES[:2]}).json()
                assert close(pair, Classifier.from_pretrained(folder, "cpu").predict([tuple(VALUES[:2])], None)[0])
                assert client.post("/predict", json={"inputs": VALUES}).status_code == 422
                answer = client.post("/predict", json={"inputs": VALUES[0], "aggregation": "max"})
                assert answer.json()["message"] == "aggregation = 'max' is not for this model, which answers classify"
            if task is QuestionAnswerer:
                assert close(client.post("/predict", json={"inputs": questions[0]}).json(), wanted[0])
                assert client.post("/predict", json={"inputs": "x"}).status_code == 422
            if task is FillMask:
                answer = client.post("/predict", json={"inputs": "no mask"})
                assert (answer.status_code, answer.json()["message"]) == (422, "texts[0] has no [MASK]")


# -- what it refuses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/embed", b'{"inputs": ', 400, "the body is not JSON: Expecting value"),
        ("/embed", b"", 400, "the body must be a JSON object"),
        ("/embed", b"\xff\xfe", 400, ""),
        ("/embed", b"[1]", 400, "the body must be a JSON object"),
        ("/embed", b'{"inputs": 5}', 422, "inputs: Input should be a valid string, or a valid list"),
        ("/embed", b'{"inputs": "a", "truncation_direction": "Left"}', 422, "truncation_direction: Input should be 'Right'"),
        ("/embed", b"{}", 422, "inputs: Field required"),
        ("/embed", b'{"inputs": []}', 422, "the request holds no input"),
        ("/embed", b'{"inputs": ["a", 5]}', 422, "inputs"),
        ("/embed", b'{"inputs": "a", "dimensions": 65}', 422, "dimensions = 65 must be from 1 to 64"),
        ("/embed", b'{"inputs": "a", "prompt_name": "no"}', 422, "prompt_name = 'no' is not one of the model's prompts"),
        ("/v1/embeddings", b'{"input": [5, 99999]}', 422, "input[0] holds 99999, which is outside the vocabulary"),
        ("/v1/embeddings", b'{"input": [-1]}', 422, "input[0] holds -1"),
        ("/embed", b'{"inputs": "' + b"cat " * 100 + b'"}', 413, "inputs[0] has 102 tokens, the limit is 64"),
        ("/embed", json.dumps({"inputs": ["a"] * 33}).encode(), 413, "33 inputs; at most 32 are allowed"),
        ("/embed", b'{"inputs": "' + b"x" * 3000 + b'"}', 413, "more than 2500 bytes"),
        ("/embed", b'{"inputs": "\\ud800"}', 422, ""),
        ("/nothing", b"{}", 404, "Not Found"),
    ],
)
def test_bad_requests_are_one_sentence(encoder: Path, path: str, body: bytes, status: int, message: str) -> None:
    with client_of(encoder, payload_limit=2500) as client:
        answer = client.post(path, content=body)
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"message", "type"}
        assert message in answer.json()["message"]
        assert client.get("/embed").status_code == 405


def test_texts_that_are_too_long_are_cut_where_asked(encoder: Path) -> None:
    for limits, body in (({"auto_truncate": True}, {}), ({}, {"truncate": True})):
        with client_of(encoder, **limits) as client:
            assert client.post("/embed", json={"inputs": "cat " * 100, **body}).status_code == 200


def test_the_key_is_asked_for(encoder: Path) -> None:
    with client_of(encoder, api_key="s3cret") as client:
        body = {"inputs": "a"}
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "Bearer \u00e9"}):
            answer = client.post("/embed", json=body, headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert (answer.status_code, answer.json()["type"]) == (401, "Unauthorized")
        assert client.post("/embed", json=body, headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.head("/health").status_code == client.get("/metrics").status_code == 200
        assert client.get("/info").status_code == client.get("/openapi.json").status_code == 401


def test_settings_come_from_flags_and_then_from_the_environment() -> None:
    env = {"MAX_BATCH_TOKENS": "1000", "PORT": "99", "AUTO_TRUNCATE": "true", "API_KEY": ""}
    found = from_environment({"model_id": "m", "port": 5, "api_key": None}, env)
    assert found == Settings("m", port=5, max_batch_tokens=1000, auto_truncate=True)
    for env, message in (
        ({"PORT": "x"}, "PORT = 'x' in the environment must be a whole number"),
        ({"AUTO_TRUNCATE": "maybe"}, "AUTO_TRUNCATE = 'maybe' in the environment must be true or false"),
        ({"MAX_BATCH_TOKENS": "0"}, "max_batch_tokens = 0 must be at least 1"),
        ({"PORT": "70000"}, "port = 70000 must be at most 65535"),
    ):
        with pytest.raises(InputError, match=message):
            from_environment({"model_id": "m"}, env)


def test_a_model_that_cannot_be_served_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert "there is no directory" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", "any", "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert cli.main(["serve"]) == 2
    assert "no model: name one, or set MODEL_ID" in capsys.readouterr().err


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["input", "inputs", "query", "texts", "documents", "dimensions", "truncate", "top_n", "encoding_format", "prompt_name"]
TEXTLIKE = (
    st.text() | st.lists(st.text() | st.integers(-5, 200), max_size=3) | st.lists(st.lists(st.integers(0, 60), max_size=3))
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), TEXTLIKE | ANYTHING, max_size=5) | ANYTHING


@pytest.fixture(scope="module")
def client(encoder: Path) -> Iterator[Any]:
    with client_of(encoder) as found:
        yield found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(["/embed", "/v1/embeddings", "/rerank", "/predict", "/tokenize"]), body=BODIES | st.binary())
def test_hostile_requests_are_never_a_500(client: Any, path: str, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
    answer = client.post(path, content=content)
    assert answer.status_code in (200, 400, 413, 422), answer.text
    if answer.status_code != 200:
        assert set(answer.json()) == {"message", "type"}
        assert answer.json()["message"]


# -- the command ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(encoder: Path) -> Iterator[Running]:
    found = Running(encoder, "--max-concurrent-requests", "8", API_KEY="k")
    yield found
    found.stop()


def test_other_services_clients_work_unchanged(running: Running, vectors: np.ndarray) -> None:
    import huggingface_hub
    import openai

    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="k")
    found = client.embeddings.create(input=VALUES, model="m")
    assert np.abs(np.array([row.embedding for row in found.data]) - vectors).max() < 1e-6
    assert client.models.list().data[0].object == "model"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="no").embeddings.create(input="x", model="m")
    unit = vectors[:1] / np.linalg.norm(vectors[:1])
    for url in (running.url, f"{running.url}/embed"):
        theirs = huggingface_hub.InferenceClient(url, api_key="k")
        assert np.abs(theirs.feature_extraction(VALUES[0]) - unit).max() < 1e-6


def post(url: str, body: dict[str, Any], timeout: float = 60, path: str = "/embed") -> tuple[int, Any]:
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    connection.request("POST", path, json.dumps(body), {"Authorization": "Bearer k"})
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_a_full_queue_answers_at_once_and_recovers(running: Running) -> None:
    body = {"inputs": [f"{'cat ' * 60}{n}" for n in range(32)], "truncate": True}
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: post(running.url, body), range(60)))
    statuses = [status for status, _ in found]
    assert set(statuses) == {200, 429}
    assert all("8 requests are being worked on" in answer["message"] for status, answer in found if status == 429)
    assert post(running.url, body)[0] == 200


def test_a_client_that_leaves_is_counted_and_others_are_answered(running: Running) -> None:
    body = {"inputs": [f"{'cat ' * 60}{n}" for n in range(32)], "truncate": True}
    host = running.url.removeprefix("http://")
    for _ in range(4):
        connection = http.client.HTTPConnection(host)
        connection.request("POST", "/embed", json.dumps(body), {"Authorization": "Bearer k"})
        connection.close()
    assert post(running.url, {"inputs": "cat"})[0] == 200
    connection = http.client.HTTPConnection(host)
    connection.request("GET", "/metrics", headers={"Authorization": "Bearer k"})
    assert re.search(r"te_request_left_total [1-4]\.0", connection.getresponse().read().decode())


def test_a_model_s_process_that_ends_is_started_anew(running: Running) -> None:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    (worker,) = [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    os.kill(worker, signal.SIGKILL)
    end = time.monotonic() + 60
    seen = set()
    while time.monotonic() < end:
        status, answer = post(running.url, {"inputs": "cat"})
        seen.add(status)
        if status == 200 and 503 in seen:
            break
        assert status in (200, 503), answer
        time.sleep(0.05)
    assert seen == {200, 503}


def test_sigterm_answers_what_was_accepted(encoder: Path) -> None:
    server = Running(encoder, API_KEY="k")
    body = {"inputs": [f"{'cat ' * 60}{n}" for n in range(32)], "truncate": True}
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        jobs = [pool.submit(post, server.url, body) for _ in range(24)]
        while not any(job.done() for job in jobs):
            time.sleep(0.001)
        said = server.stop()
        statuses = []
        for job in jobs:
            try:
                statuses.append(job.result()[0])
            except ConnectionError:  # came after the end
                statuses.append(0)
    assert said == "fastbert: stopped\n"
    assert server.process.returncode == 0
    assert statuses.count(200) >= 1
    assert set(statuses) <= {200, 0}


def test_cohere_s_client_ranks_documents(tmp_path: Path) -> None:
    import cohere

    save_head(tmp_path, "BertForSequenceClassification", num_labels=1)
    scores = Reranker.from_pretrained(tmp_path, "cpu").predict([("where is the cat ?", text) for text in VALUES])
    with listening(tmp_path) as url:
        for client in (
            cohere.ClientV2(api_key="k", base_url=url.rstrip("/")),
            cohere.Client(api_key="k", base_url=url.rstrip("/")),
        ):
            found = client.rerank(model="any", query="where is the cat ?", documents=VALUES, top_n=3).results
            assert [row.index for row in found] == np.argsort(-scores, kind="stable")[:3].tolist()
            assert np.allclose([row.relevance_score for row in found], np.sort(scores)[::-1][:3], atol=1e-6)


# -- the page of the docs ------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs/server.md"


def test_the_docs_say_what_there_is(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for line in re.findall(r"^fastbert serve .*$", page, re.M):
        cli._parser().parse_args(line.split()[1:])
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(block.replace("http://127.0.0.1:8080", running.url).replace('"none"', '"k"'), {})
    assert capsys.readouterr().out == "64\n"
    for path, body in re.findall(r"^curl http://127.0.0.1:8080(/\w+) .* -d '(.*)'$", page, re.M):
        status, answer = post(running.url, json.loads(body), path=path)
        assert status == (200 if path == "/embed" else 422), answer
    defaults = Settings("m")
    for flag, variable in re.findall(r"^\| `--([a-z-]+)` \| `([A-Z_]+)` \|", page, re.M):
        name = flag.replace("-", "_")
        assert variable == name.upper()
        assert name in FROM_ENVIRONMENT
        assert hasattr(defaults, name)
    assert f"| `--payload-limit` | `PAYLOAD_LIMIT` | {defaults.payload_limit} bytes" in page
    assert f"| `--port` | `PORT` | {defaults.port} |" in page
    known = requests_of(running.url)
    for path in re.findall(r"`(?:POST |GET )?(/[a-z0-9/]*)`", page.split("## Limits")[0]):
        assert path in known or path in ("/", "/docs"), path


def requests_of(url: str) -> set[str]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", "/openapi.json", headers={"Authorization": "Bearer k"})
    return {*json.loads(connection.getresponse().read())["paths"], "/openapi.json"}


def test_the_docs_figures_are_the_committed_ones_and_reach_their_aims() -> None:
    rows = [json.loads(line) for line in serving.RESULTS.open()]
    page = PAGE.read_text(encoding="utf-8")
    begin, end = serving.MARKS
    assert begin + page.split(begin)[1].split(end)[0] + end == serving.block(rows)
    rate = {(row["server"], row["clients"]): row["median_requests_per_s"] for row in rows}
    assert rate[serving.OURS, 64] / rate[serving.PLAIN, 64] > 2
