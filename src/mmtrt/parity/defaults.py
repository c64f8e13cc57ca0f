"""What a candidate may differ by unless it is said: per precision, and per kind of head.

The figures behind each bound stand in docs/decisions/0028.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmtrt.metrics.heads import UNKNOWN

__all__ = ["DEFAULTS", "PHRASE_BUDGETS", "default_budget", "head_defaults"]

Budget = Mapping[str, float]

DEFAULTS: Mapping[str, Budget] = {
    # FP32 against FP32: rounding in another order, over a hundred layers at most 1e-4 of the output's norm.
    "fp32": {"sqnr_db": 80.0, "cosine": 0.99999},
    # FP16 has 11 bits: one rounding is 72 dB below full scale; a deep graph adds up to about 30 dB of it.
    "fp16": {"sqnr_db": 40.0, "cosine": 0.9999},
    # INT8 has 7 bits and a sign: 20 dB is an error of a tenth of the signal, beyond which heads start to flip.
    "int8": {"sqnr_db": 20.0, "cosine": 0.99},
}
"""Bounds on the error itself: they hold for any floats, and for a single hard case."""

_SET: Mapping[str, Budget] = {
    # A hundred times the error that the SQNR's bound allows on average is no rounding.
    "fp32": {"max_rel": 0.01, "explained_variance": 0.999},
    "fp16": {"max_rel": 1.0, "explained_variance": 0.95},
    "int8": {"max_rel": 10.0, "explained_variance": 0.75},
}
"""Bounds that need a set of samples, for floats of any kind."""

_HEADS: Mapping[str, Mapping[str, Budget]] = {
    "classes": {
        "fp32": {"probability_distance": 0.001},
        "fp16": {"probability_distance": 0.01},
        "int8": {"probability_distance": 0.1},
    },
    "multilabel": {
        "fp32": {"probability_distance": 0.001},
        "fp16": {"probability_distance": 0.01},
        "int8": {"probability_distance": 0.1},
    },
    "regression": {
        "fp32": {"worst_explained_variance": 0.9},
        "fp16": {"worst_explained_variance": 0.5},
        "int8": {"worst_explained_variance": 0.25},
    },
    "ranking": {
        "fp32": {"rank_correlation": 0.999},
        "fp16": {"rank_correlation": 0.99},
        "int8": {"rank_correlation": 0.9},
    },
    "boxes-xyxy": {"fp32": {"box_iou": 0.999}, "fp16": {"box_iou": 0.98}, "int8": {"box_iou": 0.85}},
    "boxes-cxcywh": {"fp32": {"box_iou": 0.999}, "fp16": {"box_iou": 0.98}, "int8": {"box_iou": 0.85}},
}
"""What a kind of head is held to beside these."""

_INTEGERS: Mapping[str, Budget] = {
    "fp32": {"value_agreement": 0.95},
    "fp16": {"value_agreement": 0.95},
    "int8": {"value_agreement": 0.9},
}
"""Of integers there is no error, only another value."""

PHRASE_BUDGETS: Budget = {"fp32": 1.0, "fp16": 0.8}
"""Share of equal phrases unless a recipe says otherwise; what INT8 may change is for the task to say.

0.8 is what 31 equal phrases of the 32 golden events show.
"""


def default_budget(precision: str) -> Budget:
    """Return the bounds on the error itself for a precision; what can't be told is held to FP32's."""
    return DEFAULTS.get(precision, DEFAULTS["fp32"])


def head_defaults(precision: str, kind: str = UNKNOWN) -> Budget:
    """Return what an output of a kind is held to over a set of samples: its error, and what follows from the kind."""
    known = precision if precision in DEFAULTS else "fp32"
    if kind == "integers":
        return _INTEGERS[known]
    return {**DEFAULTS[known], **_SET[known], **_HEADS.get(kind, {}).get(known, {})}
