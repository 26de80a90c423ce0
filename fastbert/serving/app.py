"""The HTTP side: routes for the clients of OpenAI, Cohere and text-embeddings-inference. It parses; the workers compute."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

import fastbert
from fastbert.errors import FastbertError, InputError, TooLongError
from fastbert.serving import requests
from fastbert.serving.gate import Gate
from fastbert.serving.metrics import Metrics
from fastbert.serving.responses import json_response, problem
from fastbert.serving.settings import Settings
from fastbert.serving.workers import GoneError, OverloadedError, Workers
from fastbert.terminal import show_line

# The status of each error, and its type as text-embeddings-inference names it; the first that fits.
STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (OverloadedError, 429, "Overloaded"),
    (GoneError, 503, "Unhealthy"),
    (TooLongError, 413, "Validation"),
    (InputError, 422, "Validation"),
    (FastbertError, 424, "Inference"),
)
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_POLICY += "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_PAGE_HEADERS = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}


def make_app(settings: Settings, workers: Workers) -> FastAPI:
    """The application; its workers start and end with it."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, workers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await workers.start()
        yield
        await workers.stop()

    app = FastAPI(title="fastbert", version=fastbert.__version__, lifespan=lifespan)
    asker = _Asker(settings, workers, metrics)
    _add_errors(app)
    _add_embeddings(app, settings, asker)
    _add_scores(app, settings, asker)
    _add_facts(app, settings, workers, registry)
    _add_root(app, workers)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    return app


class _Asker:
    """Hands requests to the workers, and drops them when their clients leave."""

    def __init__(self, settings: Settings, workers: Workers, metrics: Metrics) -> None:
        self.settings, self.workers, self.metrics = settings, workers, metrics

    async def __call__(self, request: Request, name: str, payload: dict[str, Any], inputs: int) -> Any:
        if inputs == 0:
            raise InputError("the request holds no input")
        if inputs > self.settings.max_client_batch_size:
            most = self.settings.max_client_batch_size
            raise HTTPException(413, f"the request holds {inputs} inputs; at most {most} are allowed (max_client_batch_size)")
        began = time.perf_counter()
        asking = asyncio.ensure_future(self.workers.ask(name, payload))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                self.metrics.left.inc()
                asking.cancel()
                raise HTTPException(499, "the client has gone")
            found = asking.result()
        finally:
            leaving.cancel()
            if not asking.done():
                asking.cancel()
        self.metrics.answered(name, inputs, time.perf_counter() - began)
        return found

    def truncates(self, asked: bool | None) -> bool:
        """Whether texts that are too long are cut."""
        return self.settings.auto_truncate if asked is None else asked


async def _left(request: Request) -> None:
    """Waits until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI) -> None:
    async def of_ours(_: Request, error: Exception) -> Response:
        status, kind = next((status, kind) for one, status, kind in STATUS if isinstance(error, one))
        return problem(status, kind, str(error))

    async def of_body(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = error.errors()
        first = found[0]
        if first["type"] == "json_invalid":
            return problem(400, "Validation", f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
        place = [str(part) for part in first["loc"] if part != "body"]
        if not place:
            return problem(400, "Validation", "the body must be a JSON object")
        same = dict.fromkeys(one["msg"].removeprefix("Input should be ") for one in found if place[0] in map(str, one["loc"]))
        told = f"{place[0]}: {first['msg']}"
        if len(same) > 1:
            told = f"{place[0]}: Input should be {', or '.join(list(same)[:3])}"
        return problem(422, "Validation", str(FastbertError(told)))

    async def of_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, "Validation" if error.status_code in (400, 413, 422) else "Error", str(error.detail))

    async def unforeseen(_: Request, error: Exception) -> Response:
        show_line(f"fastbert: unforeseen: {type(error).__name__}: {error}")
        return problem(500, "Backend", f"{type(error).__name__}")

    app.add_exception_handler(FastbertError, of_ours)
    app.add_exception_handler(RequestValidationError, of_body)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, unforeseen)


def _listed(inputs: Any) -> list[Any]:
    """The inputs of a request as a list: of texts, or of lists of ids."""
    if isinstance(inputs, str) or (isinstance(inputs, list) and inputs and isinstance(inputs[0], int)):
        return [inputs]
    return list(inputs)


def _add_embeddings(app: FastAPI, settings: Settings, ask: _Asker) -> None:
    @app.post("/embeddings", include_in_schema=False)
    @app.post("/v1/embeddings", summary="Vectors, as OpenAI's clients ask for them")
    async def openai(request: Request, body: requests.OpenAIEmbeddings) -> Response:
        inputs = _listed(body.input)
        payload = {"inputs": inputs, "dimensions": body.dimensions, "truncate": settings.auto_truncate}
        vectors, tokens = await ask(request, "embed", payload, len(inputs))
        rows: Sequence[Any] = vectors
        if body.encoding_format == "base64":
            rows = [base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode() for row in vectors]
        data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": body.model or settings.name, "usage": usage})

    @app.post("/embed", summary="Vectors, as text-embeddings-inference's clients ask for them")
    async def embed(request: Request, body: requests.Embed) -> Response:
        inputs = _listed(body.inputs)
        payload = {
            "inputs": inputs,
            "dimensions": body.dimensions,
            "truncate": ask.truncates(body.truncate),
            "normalize": body.normalize is not False,
            "prompt_name": body.prompt_name,
        }
        vectors, _ = await ask(request, "embed", payload, len(inputs))
        return json_response(vectors)


def _add_scores(app: FastAPI, settings: Settings, ask: _Asker) -> None:
    async def rerank(request: Request, body: requests.Rerank) -> Response:
        if (body.documents is None) == (body.texts is None):
            raise InputError("expected documents (as Cohere's clients send them) or texts, one of both")
        texts = body.texts if body.texts is not None else [d if isinstance(d, str) else d.text for d in body.documents or ()]
        payload = {
            "query": body.query,
            "texts": texts,
            "truncate": ask.truncates(body.truncate),
            "raw_scores": body.raw_scores,
        }
        scores, tokens = await ask(request, "rerank", payload, len(texts))
        best = sorted(range(len(texts)), key=lambda at: -scores[at])[: body.top_n]
        if body.texts is not None:
            shown = [{"text": texts[at]} if body.return_text else {} for at in best]
            return json_response([{"index": at, "score": scores[at], **text} for at, text in zip(best, shown, strict=True)])
        results: list[dict[str, Any]] = [{"index": at, "relevance_score": scores[at]} for at in best]
        if body.return_documents:
            results = [{**row, "document": {"text": texts[row["index"]]}} for row in results]
        meta = {"api_version": {"version": "1"}, "billed_units": {"input_tokens": tokens, "search_units": 1}}
        return json_response({"id": str(uuid.uuid4()), "results": results, "meta": meta})

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        app.post(path, summary="Documents by their score for a query, best first")(rerank)

    @app.post("/predict", summary="Labels, entities, answers or words at masks, by the model's head")
    async def predict(request: Request, body: requests.Predict) -> Response:
        kind = ask.workers.info.get("kind")
        inputs, alone = _of_predict(body.inputs, str(kind))
        payload: dict[str, Any] = {
            "inputs": inputs,
            "truncate": ask.truncates(body.truncate),
            "raw_scores": body.raw_scores,
        }
        for name, value, kinds in (
            ("top_k", body.top_k, ("classify", "nli", "qa", "fill-mask")),
            ("aggregation", body.aggregation, ("ner",)),
            ("raw_scores", body.raw_scores or None, ("classify", "nli")),
        ):
            if value is not None and kind not in kinds:
                raise InputError(f"{name} = {value!r} is not for this model, which answers {kind}")
        if body.top_k is not None and kind in ("qa", "fill-mask"):
            payload["top_k"] = body.top_k
        if body.aggregation is not None:
            payload["aggregation"] = body.aggregation
        found = await ask(request, "predict", payload, len(inputs))
        if body.top_k is not None and kind in ("classify", "nli"):
            found = [row[: body.top_k] for row in found]
        return json_response(found[0] if alone else found)

    @app.post("/tokenize", summary="The pieces of texts")
    async def tokenize(request: Request, body: requests.Tokenize) -> Response:
        inputs = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        payload = {"inputs": inputs, "add_special_tokens": body.add_special_tokens}
        return json_response(await ask(request, "tokenize", payload, len(inputs)))


def _add_root(app: FastAPI, workers: Workers) -> None:
    """POST / is the route of the model's kind, as text-embeddings-inference has it; Hugging Face's own client posts there."""
    bodies: dict[str, type[BaseModel]] = {"/embed": requests.Embed, "/rerank": requests.Rerank, "/predict": requests.Predict}
    handlers = {route.path: route.endpoint for route in app.routes if isinstance(route, APIRoute) and route.path in bodies}

    @app.post("/", include_in_schema=False)
    async def root(request: Request) -> Any:
        kind = str(workers.info.get("kind"))
        path = f"/{kind}" if kind in ("embed", "rerank") else "/predict"
        try:
            body = bodies[path].model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from None
        return await handlers[path](request, body)


def _of_predict(inputs: Any, kind: str) -> tuple[list[Any], bool]:
    """The inputs as the task takes them, and whether the request holds one that stands alone.

    Raises:
        InputError: inputs of another form than the model's task reads.
    """
    if kind == "qa":
        questions = [inputs] if isinstance(inputs, requests.Question) else inputs
        if not isinstance(questions, list) or not all(isinstance(one, requests.Question) for one in questions):
            raise InputError("inputs: this model answers questions: expected {question, context}, or a list of such")
        return [(one.question, one.context) for one in questions], isinstance(inputs, requests.Question)
    if isinstance(inputs, str):
        found: list[Any] = [inputs]
    elif isinstance(inputs, list) and all(isinstance(one, str) for one in inputs):
        if kind in ("nli", "next-sentence", "classify"):  # one text, or one pair
            if len(inputs) > 2:
                raise InputError('inputs: a list of texts is one pair here; several are [["a text"], ["another"]]')
            found, inputs = [tuple(inputs) if len(inputs) == 2 else inputs[0]] if inputs else [], ""
        else:
            found = inputs
    elif isinstance(inputs, list) and all(isinstance(one, list) for one in inputs):
        found = [one[0] if len(one) == 1 else tuple(one) for one in inputs]
    else:
        raise InputError("inputs: expected a text, a pair of texts, or a list of texts or pairs")
    pairs = kind in ("nli", "next-sentence")
    if any(isinstance(one, tuple) and len(one) != 2 for one in found) or (pairs and any(isinstance(o, str) for o in found)):
        raise InputError("inputs: expected pairs of texts, two each")
    if kind in ("ner", "fill-mask") and not all(isinstance(one, str) for one in found):
        raise InputError("inputs: this model reads single texts")
    return found, isinstance(inputs, str)


def _add_facts(app: FastAPI, settings: Settings, workers: Workers, registry: CollectorRegistry) -> None:
    page = (Path(__file__).parent / "page.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    @app.head("/health", include_in_schema=False)
    @app.get("/ping", include_in_schema=False)
    @app.get("/health", summary="Whether the model is loaded")
    async def health() -> Response:
        if not workers.healthy:
            return problem(503, "Unhealthy", "the model is not loaded")
        return json_response({})

    @app.get("/info", summary="Facts of the model and the limits")
    async def info() -> Response:
        facts = workers.info
        kinds = {"embed": {"embedding": {"pooling": ",".join(facts.get("pooling", []))}}, "rerank": {"reranker": {}}}
        labels = dict(enumerate(facts.get("labels", [])))
        known = {"id2label": {str(at): name for at, name in labels.items()}}
        return json_response(
            {
                "model_id": settings.model_id,
                "model_sha": None,
                "model_dtype": facts.get("dtype"),
                "model_type": kinds.get(str(facts.get("kind")), {"classifier": known}),
                "served_model_name": settings.name,
                "task": facts.get("kind"),
                "device": facts.get("device"),
                "dimensions": facts.get("dimensions"),
                "prompts": facts.get("prompts", []),
                "mask_token": facts.get("mask"),
                "max_concurrent_requests": settings.max_concurrent_requests,
                "max_input_length": facts.get("max_input_length"),
                "max_batch_tokens": settings.max_batch_tokens,
                "max_client_batch_size": settings.max_client_batch_size,
                "payload_limit": settings.payload_limit,
                "auto_truncate": settings.auto_truncate,
                "version": fastbert.__version__,
            }
        )

    @app.get("/v1/models", summary="The model, as OpenAI's clients list it")
    async def models() -> Response:
        return json_response({"object": "list", "data": [{"id": settings.name, "object": "model", "owned_by": "fastbert"}]})

    @app.get("/metrics", summary="Counts and times for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
