"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counts what one server does."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("mllm_requests", "Requests by path and status", ["path", "status"], registry=registry)
        self.open = Gauge("mllm_requests_open", "Requests that are not answered yet", registry=registry)
        self.waiting = Gauge("mllm_queue", "Requests that wait to be decoded", registry=registry)
        self.running = Gauge("mllm_running", "Answers that are being decoded", registry=registry)
        self.first_token = Histogram(
            "mllm_time_to_first_token_seconds", "From a request to its first token", buckets=_SECONDS, registry=registry
        )
        self.rate = Histogram(
            "mllm_tokens_per_second", "Of one answer, after its first token", buckets=_RATES, registry=registry
        )
        self.prompt_tokens = Counter("mllm_prompt_tokens", "Tokens of conversations", registry=registry)
        self.cached_tokens = Counter("mllm_cached_tokens", "Those of them that were known already", registry=registry)
        self.image_tokens = Counter("mllm_image_tokens", "Those of them that stand for images", registry=registry)
        self.images = Counter("mllm_encoded_images", "Images that the encoder has seen", registry=registry)
        self.tokens = Counter("mllm_generated_tokens", "Tokens of answers", registry=registry)

    def page(self) -> bytes:
        """Returns all of it in Prometheus' format."""
        return generate_latest(self.registry)
