"""Attacks on bundles by chance: each must be refused as such, and nothing written outside of the folder given.

    python benchmarks/fuzz_bundles.py [--seconds 60] [--seed 0] [--count N] [--only KIND...] [--case INDEX] [--keep DIR]

Each case is made of the seed and its number alone, so that `--case` makes one again. It is opened twice, with a
signer required and without. A finding is a bundle that was taken and should not have been, another error than
InputError (or MachineError where the signature is gone), or a file outside: it is kept, and the exit code is 1.

With every digest computed anew, and nobody asked who signed it, another bundle is just another bundle: it is taken,
and held to what its own manifest says. Signatures are model-signing's where that is installed; else the manifest is
compared with the genuine one, which no signature does better.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from fuzz_base import contents, manifest_of, packed
from fuzz_mutations import KINDS, Genuine

from mmtrt.bundle.archive import Sealed
from mmtrt.bundle.canonical import MANIFEST, OUTER, SIGNATURE, check_names
from mmtrt.bundle.opening import Trust, unpack, verify
from mmtrt.bundle.signing import sign, trust
from mmtrt.errors import InputError, MachineError

__all__ = ["Fuzzed", "fuzz"]


@dataclass(slots=True)
class Fuzzed:
    """What became of the cases, by kind and outcome, and the findings in words."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    signatures: str = ""

    @property
    def cases(self) -> int:
        """How many bundles were tried."""
        return sum(self.outcomes.values())


def fuzz(
    work: Path,
    *,
    seed: int,
    seconds: float,
    cases: Sequence[int] | None = None,
    only: Sequence[str] = (),
    keep: Path | None = None,
) -> Fuzzed:
    """Try cases one after the other, until the time is over or all of them were."""
    out = Fuzzed()
    genuine, required, out.signatures = _genuine(work)
    end = time.monotonic() + seconds
    kinds = [kind for kind in KINDS if not only or kind in only]
    for index in cases if cases is not None else count():
        if time.monotonic() > end:
            break
        source = random.Random(f"{seed}:{index}")  # noqa: S311  # no secret
        kind = kinds[index % len(kinds)]
        room = work / "room"
        room.mkdir()
        path = room / "vqa.mmtrt"
        KINDS[kind].make(source, genuine, path)
        told, outcome = _outcome(path, genuine, required, strict=KINDS[kind].sealed)
        out.outcomes[kind, outcome] += 1
        if told:
            out.findings.append(f"{kind}, --seed {seed} --case {index}: {told}")
            if keep is not None:
                shutil.move(room, keep / f"{seed}-{index}-{kind}")
        shutil.rmtree(room, ignore_errors=True)
    return out


def _genuine(work: Path) -> tuple[Genuine, Trust, str]:
    """Make the bundle that is attacked, and what knows its signer."""
    files = contents()
    manifest = manifest_of(files)
    data = manifest.to_bytes()
    signature, required, how = _signer(work, data)
    folder = packed(work / "folder", files, manifest, signature, tar=False)
    tar = packed(work / "tar", files, manifest, signature).read_bytes()
    members = {MANIFEST: data, SIGNATURE: signature, **dict(sorted(files.items()))}
    return Genuine(members=members, tar=tar, folder=folder), required, how


def _signer(work: Path, manifest: bytes) -> tuple[bytes, Trust, str]:
    private, public = work / "key.pem", work / "key.pub"
    try:
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        private.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
        form = forms.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(forms.Encoding.PEM, form))
        return sign(manifest, private), trust([public], required=True), "verified by model-signing"
    except (ImportError, MachineError):

        def compared(seal: Sealed) -> str:
            if seal.signature is None:
                raise MachineError("not signed")
            if seal.manifest != manifest:
                raise InputError("not the one that was signed")
            return "compared"

        return b"{}", compared, "compared, model-signing is not installed"


def _outcome(path: Path, genuine: Genuine, required: Trust, *, strict: bool) -> tuple[str, str]:
    """Return what was found, empty for nothing, and what became of a bundle."""
    around = _around(path)
    outcome = "refused"
    for trusted in (required, None):
        out = path.with_name("out")
        out.mkdir()
        refused = 0
        try:
            unpack(path, out, trusted)
        except InputError:
            refused += 1
        except MachineError:
            if trusted is None:
                return "MachineError, and nothing is wrong with this machine", "finding"
            refused += 1
        # Whatever else is raised is what is looked for.
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"[:300], "finding"
        with contextlib.suppress(InputError, MachineError):
            verify(path, trusted)
            refused -= 1
        if refused not in {-1, 1}:
            return "verified and unpacked disagree", "finding"
        if _around(path) != around:
            return "something was written outside of the folder", "finding"
        if refused < 0:
            told = _taken(out, genuine, signed=trusted is not None, strict=strict)
            if told:
                return told, "finding"
            outcome = "taken, since nobody asked who signed it" if trusted is None else "taken, and genuine"
        shutil.rmtree(out)
    return "", outcome


def _taken(out: Path, genuine: Genuine, *, signed: bool, strict: bool) -> str:
    """Return what is wrong with a bundle that was taken."""
    rows = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    same = {**rows, OUTER: b"", SIGNATURE: b""} == {**genuine.members, OUTER: b"", SIGNATURE: b""}
    if strict:
        return "it was taken"
    if same:
        return ""
    if signed or rows[MANIFEST] == genuine.members[MANIFEST]:
        return "it was taken with other files than those that the manifest tells of"
    manifest = verify(out).manifest
    check_names(manifest.files)
    wrong = [n for n, e in manifest.files.items() if hashlib.sha256(rows[n]).hexdigest() != e.sha256]
    return f"it was taken with a wrong {wrong[0]}" if wrong else ""


def _around(path: Path) -> Iterator[object] | list[object]:
    """Return what stands outside of the folder given: names, times, sizes."""
    work, out = path.parents[1], path.with_name("out")
    seen = (p for p in work.rglob("*") if p != out and out not in p.parents and p != path.parent)
    states = [(p.as_posix(), p.lstat()) for p in seen]
    return sorted((name, state.st_mode, state.st_size, state.st_mtime_ns) for name, state in states)


def main() -> None:
    """Fuzz, print the counts, and exit with 1 on any finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="stop after so many cases")
    parser.add_argument("--only", nargs="*", choices=KINDS, default=[])
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--keep", type=Path, help="where findings go")
    options = parser.parse_args()
    cases = [options.case] if options.case is not None else range(options.count) if options.count else None
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mmtrt-fuzz-") as work:
        found = fuzz(
            Path(work), seed=options.seed, seconds=options.seconds, cases=cases, only=options.only, keep=options.keep
        )
    for (kind, outcome), number in sorted(found.outcomes.items()):
        print(f"{kind:16} {number:7}  {outcome}")
    took = time.monotonic() - start
    print(f"{found.cases} cases in {took:.0f} s, seed {options.seed}, signatures {found.signatures}")
    print("\n".join(found.findings) or "no findings")
    sys.exit(bool(found.findings))


if __name__ == "__main__":
    main()
