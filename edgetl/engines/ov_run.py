"""Run an OpenVINO model from any number of threads: each run has a request to itself."""

from __future__ import annotations

from typing import Any

from edgetl.engines.base import Images, Outputs


class Compiled:
    """A model compiled for one batch size, and those of its requests that no thread is using."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.names = [output.get_any_name() for output in model.outputs]
        self.idle: list[Request] = []  # its append and pop are atomic

    def request(self) -> Request:
        """An idle request, or a new one, which takes 20 µs."""
        try:
            return self.idle.pop()
        except IndexError:
            return Request(self.model.create_infer_request(), self.names)


class Request:
    """An inference request with its own input uint8 `(N, H, W, 3)`; of one thread at a time."""

    def __init__(self, request: Any, names: list[str]) -> None:
        self._request, self._names = request, names
        self.images: Images = request.get_input_tensor(0).data

    def infer(self) -> None:
        """Compute the outputs of `images`."""
        self._request.infer(share_outputs=True)

    def outputs(self) -> Outputs:
        """Copies of every output: the tensors are the request's own, and its next run's."""
        return {
            name: self._request.get_output_tensor(i).data.copy()
            for i, name in enumerate(self._names)
        }
