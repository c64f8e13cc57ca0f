"""ONNX Runtime's `quantize_static`, set up so that TensorRT takes what it writes."""

from __future__ import annotations

from pathlib import Path

import feeds
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static


class _Reader(feeds.Reader, CalibrationDataReader):  # type: ignore[misc]
    pass


METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def run(model: Path, target: Path, samples: Path, count: int, batch: int, method: str) -> None:
    """Quantise the inputs and weights of convolutions and products: symmetric, per channel, float biases."""
    quantize_static(
        str(model),
        str(target),
        _Reader(samples, count, batch),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["Conv", "ConvTranspose", "Gemm", "MatMul"],
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1, "Conv": 0, "ConvTranspose": 1, "Gemm": 0},
        },
    )


if __name__ == "__main__":
    feeds.main(run)
