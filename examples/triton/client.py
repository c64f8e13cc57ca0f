"""Ask a Triton server about samples: `python client.py localhost:8001 vqa samples/00000.npz ...`.

It needs numpy and tritonclient[grpc]. A sample is an .npz of one event: each input by its name, without the batch axis.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import triton_to_np_dtype


def ask(server: triton.InferenceServerClient, model: str, sample: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return each output for one sample; the server's metadata tells names, types and ranks."""
    told = server.get_model_metadata(model)
    inputs = []
    for tensor in told.inputs:
        array = np.ascontiguousarray(sample[tensor.name], dtype=triton_to_np_dtype(tensor.datatype))[None]
        # Triton gives a tensor that has a batch axis alone a second one, of size 1.
        array = array.reshape(*array.shape, *[1] * (len(tensor.shape) - array.ndim))
        inputs.append(triton.InferInput(tensor.name, array.shape, tensor.datatype))
        inputs[-1].set_data_from_numpy(array)
    answer = server.infer(model, inputs)
    return {tensor.name: answer.as_numpy(tensor.name) for tensor in told.outputs}


if __name__ == "__main__":
    url, name, *files = sys.argv[1:]
    with triton.InferenceServerClient(url) as client:
        for file in files:
            for output, values in ask(client, name, dict(np.load(file))).items():
                print(f"{file}: {output} {values.shape}: {np.array2string(values, precision=4, threshold=16)}")
