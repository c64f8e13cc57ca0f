"""Lines as boards print them: the names, units and order are theirs, the figures any."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from mmtrt.bench.sensors import SensorError
from mmtrt.bench.tegrastats import TegrastatsSensor, parse_line, total_power
from mmtrt.bench.telemetry import Sampler

ORIN_NANO = (
    "05-15-2025 18:30:28 RAM 6982/7620MB (lfb 5x1MB) SWAP 2640/16384MB (cached 202MB) CPU [97%@1984,95%@1984,off] "
    "EMC_FREQ 18%@3199 GR3D_FREQ 84%@[713] NVENC 1%@115 NVDEC off NVJPG1 off VIC 31%@115 OFA off APE 174 "
    "cv0@63.031C cpu@65.562C soc2@64.156C soc0@63.031C gpu@63.5C tj@65.562C "
    "VDD_IN 17946mW/15710mW VDD_CPU_GPU_CV 8896mW/7585mW VDD_SOC 3923mW/3515mW"
)
AGX_ORIN = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C "
    "GPU@-256C tj@44.343C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
THOR = (
    "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] EMC_FREQ 34%@4266 "
    "GR3D_FREQ 87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.625C "
    "gpu@56.937C/66.625C soc012@55.375C/58.781C VDD_GPU 37939mW/8660mW/37939mW "
    "VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW"
)
THOR_IDLE = (
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
    "GR3D_FREQ @[1574,1574,1574] cpu@49.75C/49.75C VDD_GPU -392mW/-392mW VIN 15004mW/15096mW"
)
AGX_XAVIER = (
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,off] EMC_FREQ 0%@665 GR3D_FREQ 0%@318 "
    "APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C PMIC@100C thermal@36.9C "
    "GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
XAVIER_NX = (
    "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%@1190,6%@1190] EMC_FREQ 10%@1600 "
    "GR3D_FREQ 62%@306 APE 150 AO@41.5C GPU@43C thermal@42.55C "
    "VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
)
ORIN_NX = (
    "03-02-2026 09:12:44 RAM 5127/15608MB (lfb 22x4MB) SWAP 0/7804MB (cached 0MB) CPU [12%@1984,8%@1984,off,off] "
    "EMC_FREQ 22%@3199 GR3D_FREQ 91%@[918] NVDEC off NVJPG off VIC 0%@115 OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off "
    "APE 174 cpu@58.406C soc2@56.218C soc0@56.937C gpu@57.375C tj@58.406C soc1@55.843C "
    "VDD_IN 14216mW/12880mW VDD_CPU_GPU_CV 6422mW/5310mW VDD_SOC 2914mW/2760mW"
)
ORIN_NANO_USER = (
    "04-27-2026 15:00:54 RAM 779/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) CPU [0%@1344,0%@1344] GR3D_FREQ 0% "
    "cpu@50.125C gpu@50.562C tj@50.562C VDD_IN 6626mW/6625mW VDD_CPU_GPU_CV 1228mW/1230mW VDD_SOC 2380mW/2380mW"
)
AGX_XAVIER_5 = (
    "01-09-2024 11:03:21 RAM 4083/31919MB (lfb 6179x4MB) SWAP 0/15959MB (cached 0MB) CPU [0%@1190,off] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 7%@[318] VIC_FREQ 115 APE 150 AUX@41.5C CPU@42C thermal@41.6C Tboard@41C "
    "AO@42C GPU@42C Tdiode@44.75C PMIC@50C "
    "GPU 124mW/16mW CPU 310mW/432mW SOC 931mW/953mW CV 0mW/0mW VDDRQ 466mW/488mW SYS5V 1522mW/1559mW"
)
NANO = (
    "RAM 1409/3964MB (lfb 28x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [22%@518,67%@518,off,off] "
    "EMC_FREQ 0%@1600 GR3D_FREQ 0%@76 APE 25 PLL@28.5C CPU@32C PMIC@50C GPU@30.5C AO@39.5C thermal@31.25C "
    "POM_5V_GPU 40/40 POM_5V_IN 2003/2003 POM_5V_CPU 320/320"
)


@pytest.mark.parametrize(
    ("text", "gpu_mhz", "memory_mhz", "memory_mib"),
    [
        (ORIN_NANO, 713, 3199, 6982),
        (AGX_ORIN, 0, 2133, 4321),
        (THOR, 1574, 4266, 8353),
        (THOR_IDLE, 1574, 4266, 3429),
        (AGX_XAVIER, 318, 665, 721),
        (XAVIER_NX, 306, 1600, 4412),
        (ORIN_NX, 918, 3199, 5127),
        (ORIN_NANO_USER, None, None, 779),
        (AGX_XAVIER_5, 318, 2133, 4083),
        (NANO, 76, 1600, 1409),
    ],
    ids=[
        "Orin Nano",
        "AGX Orin",
        "Thor",
        "Thor idle",
        "AGX Xavier",
        "Xavier NX",
        "Orin NX",
        "Orin Nano, not root",
        "AGX Xavier, JetPack 5",
        "Nano",
    ],
)
def test_clocks_and_memory_of_each_board(
    text: str, gpu_mhz: float | None, memory_mhz: float | None, memory_mib: float
) -> None:
    line = parse_line(text)
    assert (line.gpu_clock_mhz, line.memory_clock_mhz, line.memory_used_mib) == (gpu_mhz, memory_mhz, memory_mib)


@pytest.mark.parametrize(
    ("text", "watts", "of"),
    [
        (ORIN_NANO, 17.946, "VDD_IN"),
        (AGX_ORIN, 2.340 + 0.390 + 4.025, "the sum of the rails VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0:"),
        (THOR, 124.486, "(rail VIN)"),
        (THOR_IDLE, 15.004, "(rail VIN)"),
        (AGX_XAVIER, 0.311 + 0.932 + 0.621 + 1.482, "the sum of the rails GPU, CPU, SOC, CV, VDDRQ, SYS5V:"),
        (XAVIER_NX, 4.067, "VDD_IN"),
        (ORIN_NX, 14.216, "VDD_IN"),
        (ORIN_NANO_USER, 6.626, "VDD_IN"),
        (AGX_XAVIER_5, 0.124 + 0.310 + 0.931 + 0.466 + 1.522, "the sum of the rails"),
        (NANO, 2.003, "POM_5V_IN"),
    ],
    ids=[
        "Orin Nano",
        "AGX Orin",
        "Thor",
        "Thor idle",
        "AGX Xavier",
        "Xavier NX",
        "Orin NX",
        "Orin Nano, not root",
        "AGX Xavier, JetPack 5",
        "Nano",
    ],
)
def test_power_is_of_the_input_where_a_rail_holds_it(text: str, watts: float, of: str) -> None:
    power, told = total_power(parse_line(text).rails_w)
    assert power == pytest.approx(watts)
    assert of in told


def test_no_figure_of_another_kind_is_taken_for_a_rail() -> None:
    assert set(parse_line(ORIN_NANO).rails_w) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert set(parse_line(THOR).rails_w) == {"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"}
    assert parse_line(THOR_IDLE).rails_w["VDD_GPU"] == pytest.approx(-0.392)


@pytest.mark.parametrize(
    "text", [ORIN_NANO, ORIN_NX, THOR, XAVIER_NX, NANO], ids=["Nano", "NX", "Thor", "XNX", "Nano 1"]
)
def test_what_the_input_holds_is_not_counted_a_second_time(text: str) -> None:
    rails = parse_line(text).rails_w
    power, _ = total_power(rails)
    assert power is not None
    assert power in rails.values()
    assert power < sum(rails.values())


def test_agx_orins_memory_is_counted_once() -> None:
    rails = parse_line(AGX_ORIN).rails_w
    assert rails["VDDQ_VDD2_1V8AO"] == pytest.approx(0.301)
    power, _ = total_power(rails)
    assert power == pytest.approx(sum(rails.values()) - rails["VDDQ_VDD2_1V8AO"])


def test_a_gpu_that_is_powered_down_has_no_temperature() -> None:
    assert parse_line(AGX_ORIN).temperatures_c["gpu"] == -256
    assert parse_line(ORIN_NANO).temperatures_c["gpu"] == 63.5


def test_no_rails_are_no_power() -> None:
    assert total_power({}) == (None, "")


def tool(tmp_path: Path, *lines: str, forever: bool = True) -> list[str]:
    """A command that prints lines as tegrastats does: one after the other, the last again and again."""
    script = tmp_path / "tegrastats.py"
    again = f"while {forever}:\n    print({lines[-1]!r}, flush=True)\n    time.sleep(0.01)\n"
    script.write_text("import time\n" + "".join(f"print({line!r}, flush=True)\n" for line in lines) + again)
    return [sys.executable, str(script)]


def board(tmp_path: Path, **clocks: int) -> Path:
    folder = tmp_path / "devfreq" / "17000000.gpu"
    folder.mkdir(parents=True)
    for name, hertz in clocks.items():
        (folder / name).write_text(f"{hertz}\n")
    return folder.parent


def test_a_whole_measurement_on_a_board(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    folder = board(tmp_path, min_freq=624_750_000, max_freq=624_750_000)
    with Sampler(lambda: TegrastatsSensor(tool(tmp_path, ORIN_NANO), devfreq=folder, model=model)) as sampler:
        time.sleep(0.3)
    found = sampler.telemetry
    assert found is not None, sampler.why
    assert (found.source, found.device) == ("tegrastats", "NVIDIA Jetson Orin Nano Developer Kit")
    assert found.power_w is not None
    assert found.power_w.mean == pytest.approx(17.946)
    assert found.energy_j == pytest.approx(17.946 * found.duration_s)
    assert found.energy_from == "power"
    assert found.rails_w["VDD_SOC"] == pytest.approx(3.923)
    assert found.temperature_c is not None
    assert found.temperature_c.max == 63.5
    assert found.clocks_locked is True
    assert found.clocks_note.startswith("the GPU's clock is held at 624.75 MHz")
    assert sampler.why == ""


def test_the_tool_is_gone_when_the_measurement_is_over(tmp_path: Path) -> None:
    sensor = TegrastatsSensor(tool(tmp_path, THOR))
    with Sampler(lambda: sensor):
        time.sleep(0.05)
    assert sensor._process.returncode is not None


def test_clocks_that_may_change_and_a_line_without_one(tmp_path: Path) -> None:
    folder = board(tmp_path, min_freq=306_000_000, max_freq=1_020_000_000, cur_freq=918_000_000)
    sensor = TegrastatsSensor(tool(tmp_path, ORIN_NANO.replace("84%@[713]", "84%")), devfreq=folder)
    reading = sensor.read()
    sensor.close()
    assert reading is not None
    assert reading.sm_clock_mhz == 918
    assert sensor.clocks().locked is False
    assert "306 to 1020 MHz" in sensor.clocks().note


def test_what_the_tool_says_instead_of_figures_is_told(tmp_path: Path) -> None:
    with Sampler(lambda: TegrastatsSensor(tool(tmp_path, "tegrastats: no permission", forever=False))) as sampler:
        pass
    assert sampler.telemetry is None
    assert sampler.why == "tegrastats says: tegrastats: no permission"


def test_a_tool_that_ends_early_is_told(tmp_path: Path) -> None:
    with Sampler(lambda: TegrastatsSensor(tool(tmp_path, ORIN_NANO, forever=False))) as sampler:
        time.sleep(0.2)
    assert sampler.why == "tegrastats ended early"


def test_a_tool_that_is_not_there_is_told() -> None:
    with pytest.raises(SensorError, match="does not start"):
        TegrastatsSensor(["/no/such/tegrastats"])


def test_a_board_without_power_figures_says_so(tmp_path: Path) -> None:
    sensor = TegrastatsSensor(tool(tmp_path, ORIN_NANO.partition(" VDD_IN")[0]))
    reading = sensor.read()
    sensor.close()
    assert reading is not None
    assert reading.power_w is None
    assert "no power" in sensor.notes[0]
