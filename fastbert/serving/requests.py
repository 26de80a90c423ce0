"""The bodies of requests, by the names of the services whose clients send them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Ids = list[int]
Side = Literal["Right", "right"]  # of a text, at which it is cut


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=False)


class OpenAIEmbeddings(_Body):
    """OpenAI's POST /v1/embeddings."""

    input: str | list[str] | Ids | list[Ids]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class Embed(_Body):
    """text-embeddings-inference's POST /embed."""

    inputs: str | list[str] | Ids | list[Ids]
    truncate: bool | None = None
    normalize: bool | None = None
    truncation_direction: Side = "Right"
    dimensions: int | None = Field(None, ge=1)
    prompt_name: str | None = None


class Document(_Body):
    """A document of Cohere's clients."""

    text: str


class Rerank(_Body):
    """Cohere's POST /v1/rerank, and text-embeddings-inference's POST /rerank, which calls documents texts."""

    query: str
    documents: list[str | Document] | None = None
    texts: list[str] | None = None
    model: str | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    return_text: bool = False
    raw_scores: bool = False
    truncate: bool | None = None
    truncation_direction: Side = "Right"


class Question(_Body):
    """A question about a text."""

    question: str
    context: str


class Predict(_Body):
    """text-embeddings-inference's POST /predict: texts, pairs, or questions with contexts, or batches of them."""

    inputs: str | Question | list[str] | list[Question] | list[list[str]]
    truncate: bool | None = None
    raw_scores: bool = False
    top_k: int | None = Field(None, ge=1, le=1000)
    aggregation: Literal["none", "simple", "first", "average", "max"] | None = None
    truncation_direction: Side = "Right"


class Tokenize(_Body):
    """text-embeddings-inference's POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool = True
