"""Kills `mmtrt deploy` at random moments: what stands must be the old or the new version, whole.

    python benchmarks/kill_deploy.py BUNDLE.mmtrt [--target T] [--kills 100] [--flips 2000] [--seed 0] [--out FILE]
    python tests/emulated/run.py python benchmarks/kill_deploy.py BUNDLE.mmtrt     on the emulated GPU

The bundle is deployed, and then again under a higher version, over and over: each time the process gets a `kill -9` at
a random moment of a deploy's usual time. After each, every byte of the version that stands is verified, and the next
deploy has to work. Then single bits of the bundle are flipped, in each block of 512 bytes in turn and anywhere: each
such bundle has to be refused, and the old version has to stand. It ends with 1 where one of these was otherwise. The
deploying process's peak memory is of whole deploys, without the builder's and the engine's own processes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mmtrt.artifacts import file_digest, write_json
from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.opening import unpack, verify
from mmtrt.deploy.deploying import deploy
from mmtrt.deploy.request import DeployRequest
from mmtrt.errors import InputError, MmtrtError
from mmtrt.machine import machine

_HIGHER = "999999999"


def raised(bundle: Path, out: Path) -> Path:
    """Write the bundle again under a version above all others."""
    with tempfile.TemporaryDirectory() as folder:
        opened = unpack(bundle, Path(folder))
        files = {name: Path(folder, name) for name in opened.manifest.files}
        write_bundle(out, files, opened.manifest.model_copy(update={"version": _HIGHER}), None, tar=True)
    return out


def started(bundle: Path, root: Path, target: str | None) -> subprocess.Popen[str]:
    """Start a deploy."""
    named = ["--target", target] if target else []
    return subprocess.Popen(
        [sys.executable, "-m", "mmtrt", "deploy", str(bundle), "--to", str(root), "--quiet", "--json", *named],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(bundle: Path, root: Path, target: str | None) -> tuple[float, float, dict[str, Any]]:
    """Deploy to the end; return its seconds, its peak memory in MiB, and its document."""
    start, peak = time.perf_counter(), 0.0
    process = started(bundle, root, target)
    while process.poll() is None:
        peak = max(peak, peak_mib(process.pid))
        time.sleep(0.01)
    took = time.perf_counter() - start
    out, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"a deploy that nobody killed ended with {process.returncode}: {said}")
    return took, peak, json.loads(out)


def peak_mib(process: int) -> float:
    """Return what a process took at most so far, 0 where it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def standing(root: Path) -> str:
    """Return which version stands, `broken: WHY` where it is not whole."""
    try:
        told = json.loads((root / "deployed.json").read_text(encoding="utf-8"))
        opened = verify(root / "current" / "bundle")
        right = opened.digest == told["digest"] and file_digest(root / "current/model.engine") == told["engine_sha256"]
    except (OSError, ValueError, KeyError, MmtrtError) as error:
        return f"broken: {error}"
    if not right:
        return "broken: another digest"
    return "new" if opened.manifest.version == _HIGHER else "old"


def flipped(bundle: Path, root: Path, flips: int, chance: random.Random) -> Counter[str]:
    """Deploy a bundle with one bit flipped, that often; count what became of it."""
    found: Counter[str] = Counter()
    data = bytearray(bundle.read_bytes())
    before = sorted(root.rglob("*"))
    altered = root.with_name("flipped.mmtrt")
    for number in range(flips):
        block = 512 * (number // 2 % -(-len(data) // 512))
        at = chance.randrange(len(data)) if number % 2 else chance.randrange(block, min(block + 512, len(data)))
        bit = 1 << chance.randrange(8)
        data[at] ^= bit
        altered.write_bytes(data)
        data[at] ^= bit
        try:
            deploy(DeployRequest(bundle=altered, directory=root))
        except InputError:
            found["refused"] += 1
        else:
            found[f"broken: bit {bit} of byte {at} was deployed"] += 1
        if sorted(root.rglob("*")) != before:
            found[f"broken: bit {bit} of byte {at} changed the directory"] += 1
    found[standing(root)] += 1
    return found


def main() -> None:
    """Kill, look, deploy, as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    chance = random.Random(given.seed)  # noqa: S311 -- moments, no secrets
    found: Counter[str] = Counter()
    peaks = []
    with tempfile.TemporaryDirectory(prefix="kill-deploy-") as name:
        folder = Path(name)
        new = raised(given.bundle, folder / "new.mmtrt")
        whole(given.bundle, folder / "old", given.target)
        # With an empty cache, so that the build is among the moments.
        shutil.rmtree(folder / "old" / "cache")
        shutil.copytree(folder / "old", folder / "timed", symlinks=True)
        usual_s, _, _ = whole(new, folder / "timed", given.target)
        for number in range(given.kills):
            root = folder / "DIR"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(folder / "old", root, symlinks=True)
            process = started(new, root, given.target)
            time.sleep(chance.uniform(0, usual_s))
            process.kill()
            process.communicate()
            found[standing(root)] += 1
            took, peak, told = whole(new, root, given.target)
            if told["state"] == "deployed":
                # A busy machine's first deploy took longer: later moments would come after the end.
                usual_s = min(usual_s, 1.5 * took)
            peaks.append(peak)
            left = [str(path.relative_to(root)) for path in root.rglob("*.part")]
            if told["state"] not in {"deployed", "already deployed"} or standing(root) != "new" or left:
                found[f"broken: the next deploy is {told['state']}, and left {left}"] += 1
            print(f"{number + 1} of {given.kills}: {dict(found)}", file=sys.stderr)
        flips = flipped(new, folder / "old", given.flips, chance)
    if flips["old"] != 1 or flips["refused"] != given.flips:
        found["broken: " + json.dumps(flips)] += 1
    broken = sum(count for what, count in found.items() if what.startswith("broken"))
    result = {
        "schema": "mmtrt.kill-deploy/1",
        "machine": machine(),
        "kills": given.kills,
        "seed": given.seed,
        "within_s": round(usual_s, 2),
        "old_whole": found["old"],
        "new_whole": found["new"],
        "broken": {what: count for what, count in found.items() if what.startswith("broken")},
        "flips": given.flips,
        "flips_refused": flips["refused"],
        "deploy_peak_mib": round(max(peaks, default=0.0), 1),
    }
    if given.out:
        write_json(given.out, result)
    if broken:
        print(json.dumps(result, indent=2))
        sys.exit(1)
    print(
        f"{given.kills} kills within {usual_s:.1f} s: {found['old']} old, whole; {found['new']} new, whole; 0 broken; "
        f"every next deploy worked\n{given.flips} flipped bits: {flips['refused']} refused, the old version stands\n"
        f"peak memory of the deploying process: {result['deploy_peak_mib']} MiB"
    )


if __name__ == "__main__":
    main()
