#!/usr/bin/env bash
# Trains or searches on several GPUs: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# On several machines start it on each with the same NNODES, MASTER_ADDR and PORT, and NODE_RANK 0, 1, …
# Two jobs on one machine need two PORTs.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG GPUS [arguments of train.py]" >&2
  exit 2
fi
config=$1 gpus=$2
shift 2

exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher pytorch "$@"
