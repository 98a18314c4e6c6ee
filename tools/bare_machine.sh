#!/usr/bin/env bash
# Makes an environment without network from collected wheels: tools/bare_machine.sh FOLDER ENV
#
# PYTHON   interpreter that has PyTorch and torchvision (default python3); all its packages are seen in ENV
#
# FOLDER is what tools/collect_wheels.sh has made, FOLDER/large is looked into as well. What the machine has already is
# kept, OpenMMLab's packages excepted. Afterwards, for instance: ENV/bin/python -m pytest tests/device
set -euo pipefail

[ $# -eq 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
die() {
  printf 'bare_machine: %s\n' "$*" >&2
  exit 1
}
[ -d "$1" ] || die "there is no folder $1: tools/collect_wheels.sh makes it where there is a network"
FOLDER=$(cd "$1" && pwd)
mkdir -p "$(dirname "$2")"
ENV=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
list=$(mktemp)
trap 'rm -f "$list"' EXIT

"$PYTHON" -c 'import torch, torchvision' || die "$PYTHON has no PyTorch with torchvision: name one that has, PYTHON=…"
# not --system-site-packages: of an interpreter that is itself in an environment that would be another's packages
"$PYTHON" -m venv --without-pip "$ENV"
site=$("$ENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
{
  "$PYTHON" -c 'import site, sysconfig; print("\n".join(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()])))'
  pwd
} >"$site/machine.pth"

install=("$PYTHON" -m pip --disable-pip-version-check --python "$ENV/bin/python" install -q --no-index --no-deps
  --find-links "$FOLDER")
[ ! -d "$FOLDER/large" ] || install+=(--find-links "$FOLDER/large")
# the machine's own may be built for another PyTorch, or be the other line's: ours go before them
"${install[@]}" --no-cache-dir --ignore-installed "$FOLDER"/onedl_*.whl
# what is neither there nor carried is told by name below, where it is missed
for wheel in "$FOLDER"/*.whl "$FOLDER"/large/*.whl; do
  [ -e "$wheel" ] || continue
  name=$(basename "$wheel" | cut -d - -f 1)
  "$ENV/bin/python" -c 'import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])' "$name" 2>/dev/null ||
    echo "$wheel" >>"$list"
done
[ ! -s "$list" ] || "${install[@]}" -r "$list"

"$ENV/bin/python" - <<'PYTHON_CODE'
import sys
from importlib import import_module

NEEDED = (
    'cv2', 'mmcv.ops', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'timm', 'pytest', 'hypothesis', 'mmnas_ext.cli.main',
    'mmnas_ext.runs.run',
)
missing = {}
for name in NEEDED:
    try:
        import_module(name)
    except Exception as error:
        missing[name] = f'{type(error).__name__}: {error}'
for name, error in missing.items():
    print(f'bare_machine: {name} does not load: {error}', file=sys.stderr)
if missing:
    sys.exit('bare_machine: carry what is missing (LARGE=1 tools/collect_wheels.sh)')
import torch

gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
print(f'{sys.prefix} is ready: Python {sys.version.split()[0]}, torch {torch.__version__}, {gpu}')
PYTHON_CODE
