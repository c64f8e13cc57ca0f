"""What the GPU did while something was measured: clocks, temperature, power, energy, memory, and what held it back.

A thread of its own asks the sensors ten times a second. Whatever fails there leaves the measurement alone.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmtrt.bench.nvml import open_nvml
from mmtrt.bench.sensors import Clocks, Reading, Sensor, SensorError
from mmtrt.bench.tegrastats import open_tegrastats

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Sampler", "Spread", "Telemetry", "open_sensor"]

_FIRST_S = 2.0
"""How long the first reading may take: a tool has to start for it."""
_SPREADS = ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "memory_used_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Least, mean and largest of what was read."""

    min: float
    mean: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What the sensors told in a stretch of time; None, or nothing, for what they don't tell.

    `energy_j` is by the GPU's own counter or by power over time, as `energy_from` says, and is that of what `power_of`
    names, idle consumption in it. `throttle` names all that held the clocks back at any moment. `rails_w` is the mean
    of each supply rail. `period_ms` is the mean time between readings.
    """

    source: Literal["nvml", "tegrastats", ""]
    device: str
    duration_s: float
    samples: int
    period_ms: float | None = None
    sm_clock_mhz: Spread | None = None
    memory_clock_mhz: Spread | None = None
    temperature_c: Spread | None = None
    power_w: Spread | None = None
    power_of: str = ""
    energy_j: float | None = None
    energy_from: Literal["counter", "power", ""] = ""
    rails_w: Mapping[str, float] = field(default_factory=dict)
    throttle: tuple[str, ...] = ()
    memory_used_mib: Spread | None = None
    clocks_locked: bool | None = None
    clocks_note: str = ""
    notes: tuple[str, ...] = ()

    def energy_mj_per_inference(self, inferences: int) -> float | None:
        """Return millijoules an inference, where nothing but these inferences ran in that time."""
        return None if self.energy_j is None or inferences < 1 else 1e3 * self.energy_j / inferences

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Telemetry:
        """Read what `to_json` gave."""
        spreads = {name: Spread(**data[name]) if data[name] else None for name in _SPREADS}
        tuples = {name: tuple(data[name]) for name in ("throttle", "notes")}
        return cls(**{**data, **spreads, **tuples})


def open_sensor() -> Sensor:
    """Return this machine's sensors; SensorError says why there are none.

    A board that has tegrastats tells its power by that alone.
    """
    if shutil.which("tegrastats"):
        return open_tegrastats()
    return open_nvml()


class Sampler:
    """Reads sensors in the background between entering and leaving; never raises for want of them."""

    def __init__(self, opening: Callable[[], Sensor] = open_sensor) -> None:
        self._opening = opening
        self._sensor: Sensor | None = None
        self._readings: list[Reading] = []
        self._clocks = Clocks()
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread: threading.Thread | None = None
        self._window = (0.0, 0.0)
        self.why = ""
        """Why there is no telemetry, or why it ends early; empty where all is well."""

    @property
    def telemetry(self) -> Telemetry | None:
        """All that was read, from entering to leaving; None where nothing was, and `why` says it."""
        return self.between(*self._window)

    def between(self, start_s: float, stop_s: float) -> Telemetry | None:
        """Return what was read between two moments of `time.perf_counter`; None where there is no reading at all.

        A counter is interpolated at both ends, which a stretch of many periods needs and a single inference can't have.
        """
        readings = list(self._readings)
        if self._sensor is None or not readings or not stop_s > start_s:
            return None
        return _summary(self._sensor, self._clocks, readings, start_s, stop_s, self.why)

    def __enter__(self) -> Self:
        self._readings, self._stop, self._first, self.why = [], threading.Event(), threading.Event(), ""
        try:
            self._sensor = self._opening()
        except SensorError as error:
            self._sensor, self.why = None, str(error)
        except Exception as error:  # noqa: BLE001 - a benchmark does not end for a sensor
            self._sensor, self.why = None, f"the sensors failed: {type(error).__name__}: {error}"
        if self._sensor is not None:
            self._thread = threading.Thread(target=self._run, args=(self._sensor,), name="telemetry", daemon=True)
            self._thread.start()
            self._first.wait(_FIRST_S)
        self._window = (time.perf_counter(), 0.0)
        return self

    def __exit__(self, *exc: object) -> None:
        self._window = (self._window[0], time.perf_counter())
        if self._sensor is None or self._thread is None:
            return
        with contextlib.suppress(Exception):
            # Now, while the clocks are still those of the work.
            self._clocks = self._sensor.clocks()
        self._stop.set()
        if self._sensor.pause_s > 0:
            self._thread.join(_FIRST_S)
        self._sensor.close()
        self._thread.join(_FIRST_S)
        self._thread = None
        if not self._readings and not self.why:
            self.why = f"{self._sensor.source} told nothing in that time"

    def _run(self, sensor: Sensor) -> None:
        last = False
        try:
            while not last:
                # One more after the end, for the counter to enclose the whole.
                last = self._stop.is_set()
                reading = sensor.read()
                if reading is None:
                    if not self._stop.is_set():
                        self.why = f"{sensor.source} ended early"
                    return
                self._readings.append(reading)
                self._first.set()
                if not last:
                    self._stop.wait(sensor.pause_s)
        except SensorError as error:
            self.why = str(error)
        except Exception as error:  # noqa: BLE001 - a benchmark does not end for a sensor
            self.why = f"the sensors failed: {type(error).__name__}: {error}"
        finally:
            self._first.set()


# ------------------------------------------------------------------------------------------ summing up


def _summary(
    sensor: Sensor, clocks: Clocks, readings: Sequence[Reading], start_s: float, stop_s: float, why: str
) -> Telemetry:
    inside = [one for one in readings if start_s <= one.at_s <= stop_s]
    # A stretch between two readings is told by the one nearest to it.
    shown = inside or [min(readings, key=lambda one: abs(one.at_s - (start_s + stop_s) / 2))]
    energy_j, energy_from = _energy(readings, start_s, stop_s)
    gaps = np.diff([one.at_s for one in shown])
    failed = sorted({name for one in shown for name in one.failed})
    notes = [*sensor.notes, *([why] if why else [])]
    if failed:
        notes.append(f"not always told: {', '.join(failed)}")
    return Telemetry(
        source=sensor.source,
        device=sensor.device,
        duration_s=stop_s - start_s,
        samples=len(inside),
        period_ms=float(gaps.mean() * 1e3) if len(gaps) else None,
        power_of=sensor.power_of,
        energy_j=energy_j,
        energy_from=energy_from,
        rails_w=_rails(shown),
        throttle=tuple(sorted({reason for one in shown for reason in one.throttle})),
        clocks_locked=clocks.locked,
        clocks_note=clocks.note,
        notes=tuple(notes),
        **{name: _spread(shown, name) for name in _SPREADS},
    )


def _spread(readings: Sequence[Reading], name: str) -> Spread | None:
    values = [value for one in readings if (value := getattr(one, name)) is not None]
    return Spread(min=min(values), mean=float(np.mean(values)), max=max(values)) if values else None


def _rails(readings: Sequence[Reading]) -> dict[str, float]:
    names = dict.fromkeys(name for one in readings for name in one.rails_w)
    return {name: float(np.mean([one.rails_w[name] for one in readings if name in one.rails_w])) for name in names}


def _energy(
    readings: Sequence[Reading], start_s: float, stop_s: float
) -> tuple[float | None, Literal["counter", "power", ""]]:
    counted = [(one.at_s, one.energy_j) for one in readings if one.energy_j is not None]
    # Readings that don't enclose the stretch would leave a part of it uncounted.
    if len(counted) > 1 and counted[0][0] <= start_s and counted[-1][0] >= stop_s:
        times, counts = zip(*counted, strict=True)
        low, high = np.interp([start_s, stop_s], times, counts)
        if high > low:
            return float(high - low), "counter"
    powers = [(one.at_s, one.power_w) for one in readings if one.power_w is not None]
    if not powers:
        return None, ""
    moments, watts = zip(*powers, strict=True)
    grid = np.array([start_s, *(at_s for at_s in moments if start_s < at_s < stop_s), stop_s])
    at = np.interp(grid, moments, watts)
    return float(np.sum((at[1:] + at[:-1]) / 2 * np.diff(grid))), "power"
