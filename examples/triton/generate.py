"""Let a decoder on a Triton server tell a phrase: `python generate.py localhost:8001 pipeline.json 00000.npz ...`.

`pipeline.json` lies in the repository, in the folder of the part that is run again and again. It needs mmtrt and
tritonclient[grpc]: the loop is mmtrt's own, each part runs on the server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from mmtrt.parts import TOKENS, Chain, Wiring
from mmtrt.tensors import Array, Feeds, ModelSpec


class OnServer:
    """One part, run by a server: what mmtrt calls a runner."""

    def __init__(self, client: triton.InferenceServerClient, model: str, spec: ModelSpec) -> None:
        self._client, self._model = client, model
        self.inputs, self.outputs, self.runs = spec.inputs, spec.outputs, f"{model} on a Triton server"

    def __enter__(self) -> OnServer:  # noqa: PYI034 -- nothing is derived from it
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the connection to its owner."""

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run the part once."""
        inputs = [triton.InferInput(name, a.shape, np_to_triton_dtype(a.dtype)) for name, a in feeds.items()]
        for one, array in zip(inputs, feeds.values(), strict=True):
            one.set_data_from_numpy(np.ascontiguousarray(array))
        answer = self._client.infer(self._model, inputs)
        return {tensor.name: answer.as_numpy(tensor.name) for tensor in self.outputs}


if __name__ == "__main__":
    url, pipeline, *files = sys.argv[1:]
    told = json.loads(Path(pipeline).read_text(encoding="utf-8"))
    wiring = Wiring.from_json(told["wiring"])
    with triton.InferenceServerClient(url) as server:
        parts = {part: OnServer(server, told["models"][part], spec) for part, spec in wiring.parts.items()}
        with Chain(wiring, parts) as chain:
            for file in files:
                sample = np.load(file)
                answer = chain.infer({tensor.name: sample[tensor.name][None] for tensor in wiring.inputs})
                print(f"{file}: {answer[TOKENS][0].tolist()}")
