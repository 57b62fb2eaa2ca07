"""An exported network in integers of 8 bits, by onnxruntime's static quantisation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["onnx_session", "quantised"]


def onnx_session(data: bytes, n_threads: int = 0) -> Any:
    """Return an onnxruntime session of a model, on the CPU.

    Parameters
    ----------
    data : bytes
    n_threads : int
        0 is as many as the machine has cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def quantised(
    data: bytes, name: str, batches: Iterable[np.ndarray], about: Mapping[str, Any]
) -> bytes:
    """Return a model whose weights and activations are integers of 8 bits.

    Weights have a scale for each output channel. The scales of activations are those of what the
    calibration images have, from the least to the greatest value.

    Parameters
    ----------
    data : bytes
        An ONNX model.
    name : str
        Of its input.
    batches : iterable of ndarray
        Calibration images, as the input takes them.
    about : mapping
        What the file is to say of itself.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    proto = onnx.load_from_string(data)
    # Or onnxruntime asks for it: shapes are inferred and constants folded by the exporter.
    proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="supernetnas-") as folder:
        target = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        proto = onnx.load(target)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in about.items()})
    return proto.SerializeToString()
