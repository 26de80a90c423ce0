"""Counts and times for Prometheus, under text-embeddings-inference's names where they mean the same."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fastbert.serving.workers import Workers

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """What is counted.

    Args:
        registry: where it is registered.
        workers: whose load is shown.
    """

    def __init__(self, registry: CollectorRegistry, workers: Workers) -> None:
        self.requests = Counter("te_request_count", "requests, by path and status", ["path", "status"], registry=registry)
        self.inputs = Counter("te_request_inputs", "inputs of answered requests", ["kind"], registry=registry)
        self.seconds = Histogram(
            "te_request_duration", "seconds from parsing to the answer", ["kind"], registry=registry, buckets=_SECONDS
        )
        self.left = Counter("te_request_left", "requests whose clients left before the answer", registry=registry)
        for name, text, value in (
            ("te_queue_tokens", "tokens that wait", lambda: workers.load["queued"]),
            ("te_active_requests", "requests that are being worked on", lambda: workers.active),
            ("te_batch_count", "batches that were computed", lambda: workers.load["batches"]),
            ("te_batch_tokens", "tokens that were computed", lambda: workers.load["tokens"]),
            ("te_worker_restarts", "workers that ended and were started again", lambda: workers.restarts),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def answered(self, kind: str, inputs: int, seconds: float) -> None:
        """Counts an answered request."""
        self.inputs.labels(kind).inc(inputs)
        self.seconds.labels(kind).observe(seconds)
