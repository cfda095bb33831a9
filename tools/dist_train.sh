#!/usr/bin/env bash
# Train with torchrun on several GPUs of one or more machines, or on CPUs if there is no GPU:
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Run it on each of NNODES machines with its own NODE_RANK. MASTER_ADDR: address of rank 0. PORT: 29500 if unset.
# PYTHON is the interpreter. When a process dies, torchrun ends the others and names it.
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
