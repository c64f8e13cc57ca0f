"""Clocks, temperature and power of a Jetson board, by NVIDIA's `tegrastats`, whose lines differ from board to board.

Rails are taken as they are found. Where one of them is the input of the whole, that is the power; else their sum is.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmtrt.bench.sensors import Clocks, Reading, SensorError, Source
from mmtrt.machine import DEVFREQ, devfreq_mhz, gpu_devfreq

__all__ = ["Line", "TegrastatsSensor", "open_tegrastats", "parse_line", "total_power"]

PERIOD_MS = 100
_INPUTS = {
    "VDD_IN": "the module's input (rail VDD_IN)",
    "VIN": "the input of module and carrier board (rail VIN)",
    "POM_5V_IN": "the module's input (rail POM_5V_IN)",
}
"""Rails that hold all others: of Orin Nano and NX, Xavier NX and TX2; of Thor; of Nano."""
_WITHIN = {"VDDQ_VDD2_1V8AO", "NC"}
"""Not counted in a sum: AGX Orin's memory is fed from VIN_SYS_5V0, and NC is a sensor that is not connected."""
_THERMAL = ("gpu", "tj", "soc0", "thermal", "cpu")
"""Whose temperature is told, the first that is there and warm: a GPU that is powered down reads -256."""

# A rail: `VDD_IN 4067mW/3990mW`, Thor adds the largest; Xavier's lines lack the unit.
_RAIL = re.compile(r"(?<!\S)(?P<name>[A-Z][A-Z0-9_]*) (?P<now>-?\d+)(?P<unit>mW)?(?:/-?\d+(?:mW)?){1,2}(?!\S)")
_HEAT = re.compile(r"(?<!\S)(?P<name>[A-Za-z][A-Za-z0-9_]*)@(?P<now>-?\d+(?:\.\d+)?)C")
_MEMORY = re.compile(r"(?<!\S)RAM (?P<used>\d+)/(?P<total>\d+)(?P<unit>[kMG])B")
_LOAD = r"(?:\d+%)?(?:@\[?(?P<mhz>\d+)[\d,]*\]?)?"
_GPU = re.compile(r"(?<!\S)GR3D_FREQ " + _LOAD)
_DRAM = re.compile(r"(?<!\S)EMC_FREQ " + _LOAD)
_MIB = {"k": 1 / 1024, "M": 1.0, "G": 1024.0}

_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one line of tegrastats holds; None, or nothing, for what it lacks."""

    rails_w: Mapping[str, float]
    temperatures_c: Mapping[str, float]
    gpu_clock_mhz: float | None
    memory_clock_mhz: float | None
    memory_used_mib: float | None


def parse_line(text: str) -> Line:
    """Read one line, of any board; what is not understood is passed over."""
    memory = _MEMORY.search(text)
    return Line(
        rails_w={found["name"]: int(found["now"]) / 1e3 for found in _RAIL.finditer(text)},
        temperatures_c={found["name"].lower(): float(found["now"]) for found in _HEAT.finditer(text)},
        gpu_clock_mhz=_clock(_GPU, text),
        memory_clock_mhz=_clock(_DRAM, text),
        memory_used_mib=int(memory["used"]) * _MIB[memory["unit"]] if memory else None,
    )


def _clock(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    return float(found["mhz"]) if found and found["mhz"] else None


def total_power(rails_w: Mapping[str, float]) -> tuple[float | None, str]:
    """Return the board's power in W, and what it is of: the rail of the whole input, else the sum of all rails."""
    for name, told in _INPUTS.items():
        if name in rails_w:
            return rails_w[name], told
    counted = {name: watts for name, watts in rails_w.items() if name not in _WITHIN}
    if not counted:
        return None, ""
    return sum(counted.values()), f"the sum of the rails {', '.join(counted)}: no rail is the input of the whole"


def open_tegrastats() -> TegrastatsSensor:
    """Start tegrastats; SensorError says why that fails."""
    tool = shutil.which("tegrastats")
    if tool is None:
        raise SensorError("there is no tegrastats")
    return TegrastatsSensor([tool, "--interval", str(PERIOD_MS)])


class TegrastatsSensor:
    """Fulfils `Sensor` with the lines that a command prints; SensorError where it does not start."""

    source: Source = "tegrastats"
    pause_s = 0.0

    def __init__(self, command: Sequence[str], *, devfreq: Path = DEVFREQ, model: Path = _MODEL) -> None:
        try:
            self._process = subprocess.Popen(
                list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
        except OSError as error:
            raise SensorError(f"tegrastats does not start: {error}") from error
        self._devfreq = gpu_devfreq(devfreq)
        self.device = _model(model)
        self.power_of = ""
        self.notes: tuple[str, ...] = ()

    def read(self) -> Reading | None:
        """Wait for the next line; SensorError quotes what it says where that is no line of figures."""
        if self._process.stdout is None:
            return None
        for text in self._process.stdout:
            line = parse_line(text)
            if line.memory_used_mib is None and not line.rails_w:
                if text.strip():
                    raise SensorError(f"tegrastats says: {text.strip()[:200]}")
                continue
            return self._reading(line)
        return None

    def _reading(self, line: Line) -> Reading:
        power_w, self.power_of = total_power(line.rails_w)
        clock = line.gpu_clock_mhz
        if clock is None:
            # Some versions tell the load alone.
            clock = devfreq_mhz(self._devfreq, "cur_freq")
        if power_w is None:
            self.notes = ("tegrastats shows no power: some boards show it to root only",)
        return Reading(
            at_s=time.perf_counter(),
            sm_clock_mhz=clock,
            memory_clock_mhz=line.memory_clock_mhz,
            temperature_c=_heat(line.temperatures_c),
            power_w=power_w,
            memory_used_mib=line.memory_used_mib,
            rails_w=line.rails_w,
        )

    def clocks(self) -> Clocks:
        """Tell whether the GPU's lowest clock is its highest, as `jetson_clocks` sets it; and the power mode."""
        low, high = devfreq_mhz(self._devfreq, "min_freq"), devfreq_mhz(self._devfreq, "max_freq")
        mode = _power_mode()
        if low is None or high is None:
            return Clocks(note=mode)
        span = (
            f"the GPU's clock is held at {low:g} MHz" if low == high else f"the GPU may go from {low:g} to {high:g} MHz"
        )
        return Clocks(locked=low == high, note="; ".join(filter(None, (span, mode))))

    def close(self) -> None:
        """End tegrastats, and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _heat(temperatures_c: Mapping[str, float]) -> float | None:
    return next((heat for name in _THERMAL if (heat := temperatures_c.get(name, -256.0)) > -100), None)


def _model(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return "Jetson"


def _power_mode() -> str:
    tool = shutil.which("nvpmodel")
    if tool is None:
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([tool, "-q"], capture_output=True, text=True, timeout=5, check=False)
        found = re.search(r"NV Power Mode: *(\S+)", done.stdout)
        return f"power mode {found[1]}" if found else ""
    return ""
