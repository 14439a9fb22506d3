#!/usr/bin/env bash
# Test on several GPUs (without any: CPU processes):  bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# Several machines: run it on each, with NNODES, NODE_RANK (0, 1, ...), MASTER_ADDR and PORT (29500) in the environment.
# TOOL=extract_features.py in the environment runs that tool instead of test.py.
set -euo pipefail
if (($# < 3)) || [[ ! $3 =~ ^([1-9][0-9]*|gpu|auto|cpu)$ ]]; then
    sed -n '2,4s/^# //p' "$0" >&2
    if (($# < 3)); then
        echo "CONFIG, CHECKPOINT and GPUS are needed, got '$*'." >&2
    else
        echo "The number of GPUs must be a whole number of at least 1, got '$3'." >&2
    fi
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
TOOLS=$(dirname "$0")

# Otherwise torchrun and MMEngine set the same values with a warning.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"

# PyTorch's torchrun of the current python.
MAX_RESTARTS=0 PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" exec python "$TOOLS/launch.py" --nproc-per-node "$GPUS" \
    "$TOOLS/${TOOL:-test.py}" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
