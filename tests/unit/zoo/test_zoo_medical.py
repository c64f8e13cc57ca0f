from __future__ import annotations

import numpy as np
import pytest

from mmtrt.zoo.data import medical
from mmtrt.zoo.data.medical import COLUMNS, STAGES

TEST = list(medical.samples("test", 400))


def scan(radius: float, spiky: bool, seed: int = 3) -> np.ndarray:
    return medical.scan(radius, spiky, np.random.default_rng(seed))


def test_a_nodule_is_brighter_and_a_larger_one_covers_more() -> None:
    none, small, large = (scan(radius, False) for radius in (0.0, 5.0, 11.0))
    assert none.shape == (3, 64, 64)
    bright = [(one - none > 0.8).sum() for one in (small, large)]
    assert 100 < bright[0] < bright[1]
    middle, outer = ((large - none > 0.8)[i].sum() for i in (1, 0))
    assert outer < middle


def test_a_spiky_edge_is_longer() -> None:
    def edge(spiky: bool) -> int:
        mask = scan(10.0, spiky)[1] - scan(0.0, spiky)[1] > 0.8
        return int((mask[1:] ^ mask[:-1]).sum() + (mask[:, 1:] ^ mask[:, :-1]).sum())

    assert edge(True) > 1.2 * edge(False)


def test_what_counts_grows_with_the_nodule_its_spikes_and_the_markers() -> None:
    assert medical.suspicion(0, False) < medical.suspicion(4, False) < medical.suspicion(9, False)
    assert medical.suspicion(9, False) < medical.suspicion(9, True)
    record = np.zeros(len(COLUMNS), dtype=np.float32)
    high = record.copy()
    high[COLUMNS.index("marker a")] = 2
    assert medical.risk(high) > medical.risk(record)


def test_neither_half_alone_decides() -> None:
    rng = np.random.default_rng(0)
    risks = np.array([medical.risk(medical.sample_record(rng)) for _ in range(500)])
    seen = np.array(
        [medical.suspicion(r, s) for r, s in zip(rng.uniform(3, 12, 500), rng.random(500) < 0.5, strict=True)]
    )
    assert 0.5 < risks.std() / seen.std() < 3


def test_missing_values_are_0_and_about_one_in_seven() -> None:
    there = np.stack([s["table_mask"] for s in TEST])
    values = np.stack([s["table"] for s in TEST])
    assert 0.12 < 1 - there.mean() < 0.18
    assert not values[there == 0].any()
    assert (values[there == 1] != 0).all()


def test_a_stage_above_the_middle_is_a_finding() -> None:
    assert {(int(s["label.stage"]) >= 2, int(s["label.finding"])) for s in TEST} == {(False, 0), (True, 1)}
    counts = np.bincount([s["label.stage"] for s in TEST], minlength=len(STAGES))
    assert counts.min() > 50


@pytest.mark.parametrize(("take", "blank"), [("without_table", ("table", "table_mask")), ("without_image", ("image",))])
def test_what_is_missing_is_zero_and_nothing_is_told(take: str, blank: tuple[str, ...]) -> None:
    taken = getattr(medical, take)(TEST[0])
    for name, value in taken.items():
        if name.startswith("label."):
            assert value == -1
        else:
            assert value.any() == (name not in blank)
