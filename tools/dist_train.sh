#!/usr/bin/env bash
# Train on several GPUs (without any: CPU processes):  bash tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# Several machines: run it on each, with NNODES, NODE_RANK (0, 1, ...), MASTER_ADDR and PORT (29500) in the environment.
# MAX_RESTARTS=3 restarts a run with --resume when a rank fails. Without PORT one machine takes a free port.
# Machines with several networks need GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME. Machines wait MEET_TIMEOUT (120) seconds
# for each other.
set -euo pipefail
if (($# < 2)) || [[ ! $2 =~ ^([1-9][0-9]*|gpu|auto|cpu)$ ]]; then
    sed -n '2,6s/^# //p' "$0" >&2
    if (($# < 2)); then
        echo "CONFIG and GPUS are needed, got '$*'." >&2
    else
        echo "The number of GPUs must be a whole number of at least 1, got '$2'." >&2
    fi
    exit 2
fi
CONFIG=$1
GPUS=$2
TOOLS=$(dirname "$0")

# Otherwise torchrun and MMEngine set the same values with a warning.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"

# PyTorch's torchrun of the current python.
PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" exec python "$TOOLS/launch.py" --nproc-per-node "$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
