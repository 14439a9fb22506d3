#!/usr/bin/env bash
# Test on a Slurm cluster:  bash tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [arguments of test.py]
# From the environment: GPUS (all of them, 8), GPUS_PER_NODE (8), CPUS_PER_TASK (12), SRUN_ARGS (further ones of srun).
# TOOL=extract_features.py in the environment: that tool in place of test.py.
set -euo pipefail
if (($# < 4)); then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB=$2
CONFIG=$3
CHECKPOINT=$4
TOOLS=$(dirname "$0")

# SRUN_ARGS is split into words on purpose. A rank that fails ends the job.
# shellcheck disable=SC2086
PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" exec srun --partition "$PARTITION" --job-name "$JOB" \
    --ntasks "${GPUS:-8}" --ntasks-per-node "${GPUS_PER_NODE:-8}" --gres "gpu:${GPUS_PER_NODE:-8}" \
    --cpus-per-task "${CPUS_PER_TASK:-12}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$TOOLS/${TOOL:-test.py}" "$CONFIG" "$CHECKPOINT" --launcher slurm "${@:5}"
