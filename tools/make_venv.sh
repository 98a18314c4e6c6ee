#!/usr/bin/env bash
# Makes the Python environment from requirements.txt: tools/make_venv.sh [FOLDER]   (default .venv)
#
# PYTHON     interpreter to make it from (default python3)
# LINE       of OpenMMLab: maintained (default), or upstream: with the pins of requirements-upstream.txt
# MAX_JOBS   compilers at once while mmcv is built (default: one per core; each takes about 1 GB)
# TICK       seconds between two lines of progress (default 20)
#
# May be stopped at any time: the next call keeps what is installed and goes on. FOLDER/.complete is written last, FOLDER/install.log has it all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${1:-.venv}
PYTHON=${PYTHON:-python3}
TICK=${TICK:-20}
MAX_JOBS=${MAX_JOBS:-$(nproc 2>/dev/null || echo 2)}
export MAX_JOBS
BIN=$VENV/bin/python
LOG=$VENV/install.log
APT='sudo apt-get install gcc g++ make python3-venv python3-dev libgl1 libglib2.0-0'
worker=

say() { printf '%s\n' "$*"; }
die() {
  printf 'make_venv: %s\n' "$*" >&2
  exit 1
}

# pip and its compilers are one process group, so a stop ends them too
stop_worker() { [ -z "$worker" ] || kill -- "-$worker" 2>/dev/null || true; }
trap stop_worker EXIT
trap 'say "stopped; run it again to go on"; exit 130' INT TERM

# What pip is doing, from the end of its log: compiled files of mmcv, or its last own line.
doing() {
  tail -c 60000 "$LOG" | tr '\r' '\n' | sed -nE \
    -e 's/^[[:space:]]*\[([0-9]+)\/([0-9]+)\].*/compiling mmcv, file \1 of \2/p' \
    -e 's/^[[:space:]]*(Collecting [^ ]+|Downloading [^ ]+|Installing collected packages|Building wheel for [^ ]+).*/\1/p' \
    -e 's/^[[:space:]]*(Obtaining [^ ]+|Preparing metadata|Successfully installed).*/\1/p' \
    -e 's/^Requirement already satisfied: ([^ ]+).*/already there: \1/p' | tail -n 1
}

explain_failure() {
  say '---- last lines of the log'
  cut -c1-300 "$LOG" | tail -n 30
  say "---- the whole log: $LOG"
  if grep -qE 'C\+\+20|std=c\+\+20' "$LOG"; then
    say 'torch 2.14 and later want C++20, which mmcv 2.3.6 does not ask its compiler for: keep torch===2.13.0.'
  fi
  if grep -qE 'Python\.h|command .?(gcc|g\+\+|c\+\+|cc).* failed|No such file or directory: .?(gcc|g\+\+|c\+\+)' "$LOG"; then
    say "mmcv is compiled here and needs a compiler and Python's headers: $APT"
  fi
  if grep -qE 'libGL\.so|libgthread|libglib' "$LOG"; then
    say "OpenCV needs two system libraries: $APT"
  fi
}

# step NAME COMMAND...: runs it into the log and shows progress, also where there is no terminal
step() {
  local name=$1 started=$SECONDS shown=0 passed status=0
  shift
  say "== $name"
  set -m
  "$@" >>"$LOG" 2>&1 </dev/null &
  worker=$!
  set +m
  while kill -0 "$worker" 2>/dev/null; do
    sleep 0.2
    passed=$((SECONDS - started))
    if [ $((passed - shown)) -ge "$TICK" ]; then
      shown=$passed
      say "   $((passed / 60)) min $((passed % 60)) s: $(doing)"
    fi
  done
  wait "$worker" || status=$?
  worker=
  if [ "$status" -ne 0 ]; then
    explain_failure
    die "failed: $name. Mend that and run it again: it goes on from here."
  fi
  say "   done in $((SECONDS - started)) s"
}

command -v "$PYTHON" >/dev/null || die "there is no $PYTHON here. Install Python 3.11 or name one: make venv PYTHON=python3.12"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "the pinned versions need Python 3.11 or newer, $PYTHON is $("$PYTHON" -V 2>&1). Name another: make venv PYTHON=python3.12"
command -v c++ >/dev/null || say "warning: there is no C++ compiler here; mmcv needs one unless pip has its wheel: $APT"

case "${LINE:-maintained}" in
  maintained) packages=requirements.txt from=requirements.txt ;;
  upstream) packages=$VENV/requirements.txt from='requirements.txt with the packages of requirements-upstream.txt' ;;
  *) die "LINE must be maintained or upstream, got $LINE" ;;
esac

say "Making $VENV from $from: 6 GB, a few minutes of downloads; mmcv is compiled with $MAX_JOBS jobs,"
say 'about 10 minutes on two cores the first time (afterwards pip has the wheel). The log: '"$LOG"
rm -f "$VENV/.complete"
if ! [ -x "$BIN" ] || ! "$BIN" -m pip --version >/dev/null 2>&1; then
  "$PYTHON" -m venv "$VENV" || die "could not make $VENV: on Debian and Ubuntu venv is a package of its own: $APT"
fi
: >"$LOG"

# the first block of requirements.txt, up to the first empty line
sed '/^$/q' requirements.txt >"$VENV/first.txt"
step '1/4 torch and the build tools' "$BIN" -m pip install --disable-pip-version-check -r "$VENV/first.txt"
if [ "$packages" != requirements.txt ]; then
  { grep -v '^onedl-' requirements.txt; cat requirements-upstream.txt; } >"$packages"
fi
# -v: without it pip hides the compiler's progress
step '2/4 everything else; compiles mmcv' \
  "$BIN" -m pip install -v --disable-pip-version-check --no-build-isolation -r "$packages"
step '3/4 this project, editable' \
  "$BIN" -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
step '4/4 does it load' "$BIN" -c 'import cv2, mmcv.ops, mmdet.models, mmengine, mmpretrain.models, mmseg.models, timm, torchvision'
touch "$VENV/.complete"
say "$VENV is ready"
