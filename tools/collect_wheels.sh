#!/usr/bin/env bash
# Collects the wheels of requirements-bare.txt for a machine without network: tools/collect_wheels.sh FOLDER
#
# PYTHON   interpreter that collects; it has pip, setuptools and a network (default .venv/bin/python)
# TARGET   Python of the other machine, such as 3.12 (default: that of PYTHON)
# LARGE=1  also NumPy, OpenCV, SciPy, ONNX, TensorBoard …, into FOLDER/large: images with CUDA and PyTorch often have them
#
# Linux on x86-64. PyTorch and torchvision are not collected. MMCV is built without compiled operators: what that means
# is in tools/bare/mmcv_ext.py. The next call keeps what is there.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
FOLDER=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
TARGET=${TARGET:-$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
MOST=60 # MiB that a carried folder may have
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }
die() {
  printf 'collect_wheels: %s\n' "$*" >&2
  exit 1
}
pin() { sed -nE "s/^$1===?([^ ]+).*/\1/p" requirements.txt; }
has() { compgen -G "$FOLDER/$(tr - _ <<<"$1")-$(pin "$1")-*.whl" >/dev/null; }

# MMCV from its source, with mmcv_ext.py where its operators would be
build_mmcv() {
  pip download -q --no-deps --no-build-isolation --no-binary :all: -d "$work" "onedl-mmcv==$(pin onedl-mmcv)"
  tar -xzf "$work"/onedl_mmcv-*.tar.gz -C "$work"
  cd "$work"/onedl_mmcv-*/
  sed -i 's/ext_modules=get_extensions()/ext_modules=[]/' setup.py
  grep -q 'ext_modules=\[\]' setup.py || die "setup.py of MMCV $(pin onedl-mmcv) has no get_extensions() to leave out"
  rm -rf mmcv/ops/csrc
  cp "$OLDPWD/tools/bare/mmcv_ext.py" mmcv/_ext.py
  cd "$OLDPWD"
  # not from the cache, where an MMCV with operators may be, and not into it
  pip wheel -q --no-deps --no-build-isolation --no-cache-dir -w "$FOLDER" "$work"/onedl_mmcv-*/
}

echo "== OpenMMLab's packages, pure Python"
mmcv=$(compgen -G "$FOLDER/onedl_mmcv-$(pin onedl-mmcv)-*.whl" | head -n 1 || true)
# one that holds another mmcv_ext.py is built anew
[ -n "$mmcv" ] && [ "$mmcv" -nt tools/bare/mmcv_ext.py ] || build_mmcv
for name in onedl-mmdetection onedl-mmsegmentation onedl-mmpretrain; do
  has "$name" || pip wheel -q --no-deps --no-build-isolation -w "$FOLDER" "$name==$(pin "$name")"
done

# our pins as constraints; what only the other machine has is none of them
grep -E '^[A-Za-z0-9_-]+==' requirements.txt | grep -vE '^(torch|torchvision|opencv-python)==' >"$work/pins.txt"
platforms=()
for glibc in 2_28 2_27 2_24 2_17 2_12 2_5; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
# collect LIST FOLDER
collect() {
  pip download -q --no-deps --only-binary=:all: --python-version "$TARGET" --implementation cp "${platforms[@]}" \
    -c "$work/pins.txt" -r "$1" -d "$2"
}
sed '/^# large/,$d' requirements-bare.txt | grep -vE '^onedl-mm(cv|detection|segmentation|pretrain)$' >"$work/small.txt"
sed '1,/^# large/d' requirements-bare.txt >"$work/large.txt"
echo "== wheels for Python $TARGET"
collect "$work/small.txt" "$FOLDER"
if [ "${LARGE:-0}" = 1 ]; then
  echo "== large ones"
  mkdir -p "$FOLDER/large"
  collect "$work/large.txt" "$FOLDER/large"
fi

size=$(du -cm "$FOLDER"/*.whl | tail -n 1 | cut -f 1)
echo "$FOLDER: $(ls "$FOLDER"/*.whl | wc -l) wheels, $size MiB; make the environment there: tools/bare_machine.sh $(basename "$FOLDER") ENV"
[ ! -d "$FOLDER/large" ] || echo "$FOLDER/large: $(ls "$FOLDER/large" | wc -l) wheels, $(du -sm "$FOLDER/large" | cut -f 1) MiB"
[ "$size" -le "$MOST" ] || die "$FOLDER has $size MiB, more than the $MOST that it may: take names out of requirements-bare.txt"
