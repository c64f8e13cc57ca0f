"""A small bundle that has one of everything, for the fuzzer and for tests; nothing in it is a real model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.manifest import Manifest

__all__ = ["contents", "manifest_of", "packed"]

_SIZES = {
    "engines/any-rtx.int8.engine": 2500,
    "engines/any-rtx.int8.engine.json": 300,
    "golden/0000.npz": 700,
    "golden/0001.npz": 1,
    "labels/answer.json": 40,
    "models/fp32.onnx": 1024,
    "models/fp32.onnx.data": 4096,
    "models/int8.onnx": 1500,
    "preprocessing.json": 0,
    "timing/any-rtx.cache": 513,
}


def contents(seed: int = 0) -> dict[str, bytes]:
    """Return files of sizes at and off the blocks of a tar, by their names."""
    source = random.Random(seed)  # noqa: S311  # no secret
    return {name: source.randbytes(size) for name, size in _SIZES.items()}


def manifest_of(files: Mapping[str, bytes], **changed: Any) -> Manifest:
    """Return a manifest that tells of these files."""
    digest = hashlib.sha256(b"a model").hexdigest()
    told = {
        "schema": "mmtrt.bundle/1",
        "name": "vqa",
        "version": "1.2.0",
        "mmtrt": "0.1.0",
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in sorted(files.items())
        },
        "spec": {"inputs": {"ids": {"shape": ["batch", 12], "ranges": [1, 4, 8]}}},
        "recipe": {"model": {"source": "zoo:vqa"}, "rate": 0.5},
        "models": {
            "fp32": {"path": "models/fp32.onnx", "digest": digest, "data": ["models/fp32.onnx.data"]},
            "int8": {"path": "models/int8.onnx", "digest": digest, "budget": {"answer:sqnr_db": 20.0}},
        },
        "targets": {"any-rtx": {"precision": "int8", "settings": {"flavor": "tensorrt-rtx"}}},
        "golden": "golden",
        "engines": [
            {
                "path": "engines/any-rtx.int8.engine",
                "manifest": "engines/any-rtx.int8.engine.json",
                "target": "any-rtx",
                "precision": "int8",
                "onnx": digest,
                "flavor": "tensorrt-rtx",
                "flavor_version": "1.7.1.116",
            }
        ],
        "timing_caches": [
            {
                "path": "timing/any-rtx.cache",
                "flavor": "tensorrt-rtx",
                "flavor_version": "1.7.1.116",
                "gpu": "NVIDIA L4",
                "compute_capability": "8.9",
            }
        ],
        "preprocessing": "preprocessing.json",
        "labels": {"answer": "labels/answer.json"},
        "plugins": [],
    }
    return Manifest.model_validate(told | changed)


def packed(
    out: Path, files: Mapping[str, bytes], manifest: Manifest, signature: bytes | None = None, *, tar: bool = True
) -> Path:
    """Write a bundle of these files to `out`, by way of a folder beside it; return its path."""
    sources = {}
    for name, data in files.items():
        sources[name] = out.with_name(f"{out.name}.files") / name
        sources[name].parent.mkdir(parents=True, exist_ok=True)
        sources[name].write_bytes(data)
    write_bundle(out, sources, manifest, signature, tar=tar)
    return out
