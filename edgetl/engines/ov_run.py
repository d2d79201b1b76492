"""Run an OpenVINO model from any number of threads: each run has a request to itself."""

from __future__ import annotations

from typing import Any

from edgetl.engines.base import Images, Logits


class Compiled:
    """A model compiled for one batch size, and those of its requests that no thread is using."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.idle: list[Request] = []  # its append and pop are atomic

    def request(self) -> Request:
        """An idle request, or a new one, which takes 20 µs."""
        try:
            return self.idle.pop()
        except IndexError:
            return Request(self.model.create_infer_request())


class Request:
    """An inference request with its own input uint8 `(N, H, W, 3)`; of one thread at a time."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.images: Images = request.get_input_tensor(0).data

    def infer(self) -> None:
        """Compute `logits` of `images`."""
        self._request.infer(share_outputs=True)

    @property
    def logits(self) -> Logits:
        """Float32 `(N, classes)`, in OpenVINO's own memory."""
        logits: Logits = self._request.get_output_tensor(0).data
        return logits
