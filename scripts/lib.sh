# shellcheck shell=bash
# What the scripts share; source it under `set -euo pipefail`, then call `setup_venv`.
#
# MMTRT_VENV    the virtual environment, .venv in the project unless set
# MMTRT_PYTHON  the Python 3.10 to 3.13 to make it with; found on PATH unless set
# MMTRT_EXTRAS  the extras to install, "onnx,export,hf,rtx,cuda,plot,sign,dev" unless set
# pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) hold as everywhere.
#
# The environment carries a state, in one file that is replaced whole:
#   <fingerprint>  installed, from exactly these inputs: nothing to do, and no network needed
#   outdated       sound, but not (yet) what the inputs ask for: updated in place
#   unfinished     a set-up was killed in it: pip may have left half a package, so it is made anew
# No file: being made, or not ours.

root=$(CDPATH='' cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
venv=${MMTRT_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
extras=${MMTRT_EXTRAS-onnx,export,hf,rtx,cuda,plot,sign,dev}
readonly root venv extras

say() { printf '%s\n' "$*" >&2; }

# die MESSAGE...: this machine can't (exit code 4, as in mmtrt itself).
die() {
  printf 'setup: %s\n' "$@" >&2
  exit 4
}

# setup_venv: make or update the environment, then put its commands first on PATH.
setup_venv() {
  local python version constraints fingerprint
  find_python
  constraints=$root/constraints/py${version//./}.txt
  [[ -r $constraints ]] || die "$constraints is missing or cannot be read"
  fingerprint=$(compute_fingerprint)
  is_ready || with_lock install_all
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  unset PYTHONHOME
}

# Sets `python` (never one inside a virtual environment: that may be the one to be replaced) and `version` (3.11).
find_python() {
  local candidate about state found="" candidates=(python3 python3.13 python3.12 python3.11 python3.10 python)
  [[ -z ${MMTRT_PYTHON:-} ]] || candidates=("$MMTRT_PYTHON")
  for candidate in "${candidates[@]}"; do
    # Runs on any Python, so that an old one can be named in the message.
    about=$("$candidate" -c '
import sys
try:
    import ensurepip, venv
    state = "complete"
except ImportError:
    state = "lacks its venv module"
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    state = "is not supported"
print("%d.%d|%s|%s" % (sys.version_info[0], sys.version_info[1], state, getattr(sys, "_base_executable", sys.executable)))
' 2>/dev/null) || continue
    IFS='|' read -r version state python <<<"$about"
    [[ $state != complete ]] || return 0
    found+="${found:+, }$candidate ($version) $state"
  done
  die "needs Python 3.10 to 3.13 with its venv module; ${found:-none of these runs: ${candidates[*]}}" \
    "Install one (on Debian and Ubuntu: python3 and python3-venv), or name one with MMTRT_PYTHON."
}

compute_fingerprint() {
  "$python" -c '
import hashlib, sys
digest = hashlib.sha256("\0".join([sys.version, *sys.argv[1:3]]).encode())
for path in sys.argv[3:]:
    with open(path, "rb") as file:
        digest.update(b"\0" + file.read())
print(digest.hexdigest())
' "$root|$venv" "$extras" "$root/pyproject.toml" "$root/packages/mmtrt-zoo/pyproject.toml" \
    "$constraints" "$root/scripts/lib.sh"
}

read_state() {
  local state=""
  [[ ! -f $venv/.mmtrt-state ]] || read -r state <"$venv/.mmtrt-state" || true
  printf '%s' "$state"
}

write_state() {
  printf '%s\n' "$1" >"$venv/.mmtrt-state.$$"
  mv -f -- "$venv/.mmtrt-state.$$" "$venv/.mmtrt-state"
}

is_ready() { [[ $(read_state) == "$fingerprint" && -x $venv/bin/python ]]; }

# with_lock COMMAND: one set-up at a time per environment. The lock is on the folder itself and goes with
# the last process that holds it, so a pip that outlives a killed script still keeps others out.
with_lock() {
  local lock
  mkdir -p -- "$venv" || die "cannot make the folder $venv"
  exec {lock}<"$venv"
  "$python" -c '
import fcntl, sys
try:
    fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: waiting for another set-up of the same environment", file=sys.stderr)
    fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX)
' "$lock" || die "cannot lock $venv"
  "$@"
  exec {lock}<&-
}

install_all() {
  ! is_ready || return 0 # The one that we waited for did it.
  trap 'exit 130' INT    # pip answers Ctrl-C like a failure, but may leave half a package.
  local start=$SECONDS
  say "setup: $venv, Python $version, extras: ${extras:-none}"
  make_venv
  # A folder that is not ours is never emptied, so it must not be marked for it.
  if is_owned; then write_state unfinished; else write_state outdated; fi
  install "build tools" pip setuptools wheel hatchling editables
  [[ ,$extras, != *,export,* && ,$extras, != *,hf,* ]] || install torch torch
  install "mmtrt and the rest" --no-build-isolation \
    --editable "$root${extras:+[$extras]}" --editable "$root/packages/mmtrt-zoo"
  write_state "$fingerprint"
  say "setup: ready after $((SECONDS - start)) s"
  trap - INT
}

# Leaves an environment with the right Python in it and pip, whatever was there before.
make_venv() {
  if is_owned; then
    [[ $(read_state) =~ ^(unfinished)?$ ]] || ! venv_fits || return 0
  elif [[ -e $venv/pyvenv.cfg ]]; then
    venv_fits || die "$venv was made by hand and has no Python $version with pip in it" \
      "Remove it, or set MMTRT_VENV to another folder, or MMTRT_PYTHON to its Python."
    return 0
  elif [[ -n $(ls -A -- "$venv") ]]; then
    die "$venv holds something else than a virtual environment" "Set MMTRT_VENV to another folder."
  fi
  say "setup: a new environment"
  printf '%s\n' "$venv" >"$venv/.mmtrt-owned"
  find "$venv" -mindepth 1 ! -name .mmtrt-owned -delete || die "cannot empty $venv"
  "$python" -m venv "$venv" || die "cannot make a virtual environment in $venv"
}

is_owned() { [[ -e $venv/.mmtrt-owned ]]; }

venv_fits() {
  # The commands in a copied or moved environment still run the Python of the old place.
  ! is_owned || [[ $(<"$venv/.mmtrt-owned") == "$venv" ]] || return 1
  [[ $("$venv/bin/python" -c 'import sys, pip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == "$version" ]]
}

# install NAME PIP_ARGUMENT...
install() {
  local name=$1 start=$SECONDS log=$venv/setup.log code=0
  shift
  say "setup: $name ..."
  "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
    --constraint "$constraints" "$@" 2>&1 | follow "$name" "$log" || code=$?
  if ((code > 0)); then
    # pip that ends by itself leaves whole packages; pip that is killed may not.
    ((code > 128)) || write_state outdated
    tail -n 15 -- "$log" >&2
    die "$name: pip ended with code $code; its whole output is in $log"
  fi
  say "setup: $name: $((SECONDS - start)) s"
}

# follow NAME LOG: keep pip's output in a file, show one line of it every 15 s.
follow() {
  local line="" last="" code start=$SECONDS next=$((SECONDS + 15))
  : >"$2"
  while true; do
    code=0
    IFS= read -r -t 5 line || code=$?
    if ((code == 0)); then
      printf '%s\n' "$line" >>"$2"
      last=$line
    elif ((code <= 128)); then
      return 0
    fi
    if ((SECONDS >= next)); then
      say "setup: $1: $((SECONDS - start)) s  ${last:0:100}"
      next=$((SECONDS + 15))
    fi
  done
}
