"""From an FP32 ONNX file to an FP16 or INT8 one: observe, choose scales, place Q/DQ, cast."""
