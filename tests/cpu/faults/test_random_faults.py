"""What `benchmarks/faults.py` plants, measures and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fault_planting import Built, swapped_outputs

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import faults

    return faults


def test_each_kind_changes_a_graph_and_the_same_seed_the_same_way(faults: Any, built: Built) -> None:
    good = onnx.load(str(built("factory", "int8")))
    for kind, plant in faults.KINDS.items():
        made = []
        for _ in range(2):
            proto = onnx.ModelProto()
            proto.CopyFrom(good)
            place = plant(proto, np.random.default_rng(3))
            made.append((place, proto.SerializeToString(deterministic=True)))
        assert made[0] == made[1], kind
        assert made[0][1] != good.SerializeToString(deterministic=True), kind


def test_errors_are_measured_by_plain_arithmetic(faults: Any, built: Built, tmp_path: Path) -> None:
    reference = built("factory", "fp32")
    swapped, broken = tmp_path / "swapped.onnx", tmp_path / "broken.onnx"
    onnx.save(swapped_outputs(onnx.load(str(reference)), "colour", "shape"), str(swapped))
    proto = onnx.load(str(reference))
    proto.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(proto, str(broken))

    assert set(faults.independent(reference, reference).values()) == {np.inf}
    # Outputs are told by their name.
    found = faults.independent(reference, swapped)
    assert found["colour"] < 20
    assert found["size"] == np.inf
    assert faults.independent(reference, broken).startswith("load: ")
    assert faults.measured(reference, swapped, "int8")["fault"] == "changes"
    told = faults.measured(reference, reference, "fp32")
    assert (told["fault"], told["sqnr_db"], told["budget_db"]) == ("harmless", None, 80.0)
    assert faults.measured(reference, broken, "fp32")["fault"] == "breaks"


def test_rates_hold_the_gate_to_what_was_measured(faults: Any) -> None:
    told = [("changes", "fail")] * 3 + [("changes", "pass"), ("harmless", "pass"), ("harmless", "fail")]
    told += [("breaks", "error"), ("changes", "error")]
    rows = [{"fault": fault, "verdict": verdict, "kind": "weight zeroed"} for fault, verdict in told]

    rates = faults.rates(rows)

    assert rates["detected"] == 4 / 5
    assert rates["harmless_passed"] == 1 / 2
    assert rates["broken_refused"] == 1
    assert faults.rates([])["detected"] is None
    table = faults.table(rows, [{"model": "clip", "precision": "int8", "verdict": "fail"}])
    assert "| **all** | 8 | 5 | 80.0% | 2 | 50.0% | 1 |" in table
    assert "false alarms: clip int8" in table
