"""Inputs pulled away: each must be a clear error, and after each the session must say what it said before."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from step import asked, drawn_feeds, usual

import mmtrt
from mmtrt.errors import MmtrtError
from mmtrt.tensors import Array


def main() -> None:
    """Do each wrong thing to one session of the smallest FP16 engine."""
    given = asked()
    path = min((row["fp16"] for row in given.engines("fp16").values()), key=lambda engine: engine.stat().st_size)
    rows: dict[str, Any] = {}
    session = mmtrt.Session(str(path))
    feeds = drawn_feeds(session, usual(session))
    before = session.run(feeds)
    for name, wrong in _wrongs(session, feeds).items():
        rows[name] = {**_error(wrong), "works_on": _same(session.run(feeds), before)}
        given.write({"rows": rows})
    rows["closed by a second thread while it runs"] = _closing(session, feeds)
    given.write({"rows": rows})
    sys.exit(0 if all(row["clear"] and row["works_on"] for row in rows.values()) else 1)


def _wrongs(session: Any, feeds: dict[str, Array]) -> dict[str, Callable[[], Any]]:
    first = session.inputs[0]
    array = feeds[first.name]
    wrongs: dict[str, Callable[[], Any]] = {
        "an input is missing": lambda: session.run({n: a for n, a in feeds.items() if n != first.name}),
        "a name is unknown": lambda: session.run({**feeds, "nobody": array}),
        "wrong type": lambda: session.run({**feeds, first.name: array.astype(np.float64)}),
        "one axis too few": lambda: session.run({**feeds, first.name: array[0]}),
        "outside the profile": lambda: session.run(
            {name: np.repeat(value, 1000, axis=0) for name, value in feeds.items()}
        ),
    }
    try:
        import torch
    except ImportError:
        return wrongs
    if torch.cuda.is_available():
        wrongs["a tensor whose memory is freed"] = lambda: session.run({**feeds, first.name: _freed(torch, array)})
        wrongs["a tensor that is not there"] = lambda: session.run(
            {**feeds, first.name: torch.empty(array.shape, device="meta")}
        )
    return wrongs


def _freed(torch: Any, array: Array) -> Any:
    tensor = torch.from_numpy(array).cuda()
    tensor.untyped_storage().resize_(0)
    return tensor


def _error(wrong: Callable[[], Any]) -> dict[str, Any]:
    try:
        wrong()
    except MmtrtError as error:
        return {"clear": True, "error": str(error)}
    except Exception as error:  # noqa: BLE001
        return {"clear": False, "error": f"{type(error).__name__}: {error}"}
    return {"clear": False, "error": "none: it ran"}


def _same(got: Any, before: Any) -> bool:
    return all(np.array_equal(got[name], before[name], equal_nan=True) for name in before)


def _closing(session: Any, feeds: dict[str, Array]) -> dict[str, Any]:
    """Run in one thread while another closes: runs end whole or say that it is closed."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(2000):
                session.run(feeds)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    session.close()
    thread.join()
    told = _error(lambda: session.run(feeds))
    clear = told["clear"] and all(isinstance(error, MmtrtError) for error in errors)
    return {"clear": clear, "error": told["error"], "works_on": True}


if __name__ == "__main__":
    main()
