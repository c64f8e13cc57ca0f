"""The contract of runners, its own test body, over engines of both flavours on the emulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_gpu import Emulated
from plans import make_plan
from test_runners import (  # noqa: F401 -- pytest finds them here
    SessionRunner,
    test_a_wrong_input_is_named_and_the_runner_still_works,
    test_it_fulfils_the_contract,
    test_it_gives_the_same_again_whatever_came_between,
    test_it_says_what_pytorch_says_at_every_shape,
)

from mmtrt.runtimes import Runner
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.runtimes.tensorrt_api import FLAVOURS, LABELS, FlavourName


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> FlavourName:
    found: FlavourName = request.param
    return found


@pytest.fixture(params=[TensorRTRunner, SessionRunner])
def runner(
    request: pytest.FixtureRequest, flavour: FlavourName, tiny: Path, tmp_path: Path, emulated: Emulated
) -> Iterator[Runner]:
    before = emulated.live
    with request.param(make_plan(tiny, tmp_path / "tiny.engine", flavor=flavour)) as entered:
        assert LABELS[flavour] == entered.runs.partition(" ")[0]
        yield entered
    assert emulated.live == before
