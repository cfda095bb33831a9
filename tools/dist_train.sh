#!/usr/bin/env bash
# Train on several GPUs (or, without any, CPU processes) of one or more machines, by torchrun:
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On each of NNODES machines with its own NODE_RANK, 0 on the one that MASTER_ADDR names; PORT if 29500 is taken.
# PYTHON is the interpreter. When a process dies, torchrun ends the others and says which it was.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$GPUS" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
