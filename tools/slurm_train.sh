#!/usr/bin/env bash
# Train on a Slurm cluster:  bash tools/slurm_train.sh PARTITION JOB CONFIG [arguments of train.py]
# From the environment: GPUS (all of them, 8), GPUS_PER_NODE (8), CPUS_PER_TASK (12), SRUN_ARGS (further ones of srun).
# Before a time limit: SRUN_ARGS='--time 24:00:00 --signal=USR1@120'. A run that is preempted saves, exits with 75, and is
# queued again with --resume, here or, within a batch job, by Slurm's own requeue.
set -euo pipefail
if (($# < 3)); then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
PARTITION=$1
JOB=$2
CONFIG=$3
TOOLS=$(dirname "$0")

PREEMPTED=75
resume=()
if ((${SLURM_RESTART_COUNT:-0} > 0)); then resume=(--resume); fi
while true; do
    status=0
    # SRUN_ARGS is split into words on purpose. A rank that fails ends the job.
    # shellcheck disable=SC2086
    PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" srun --partition "$PARTITION" --job-name "$JOB" \
        --ntasks "${GPUS:-8}" --ntasks-per-node "${GPUS_PER_NODE:-8}" --gres "gpu:${GPUS_PER_NODE:-8}" \
        --cpus-per-task "${CPUS_PER_TASK:-12}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        python -u "$TOOLS/train.py" "$CONFIG" --launcher slurm "${@:4}" ${resume[@]+"${resume[@]}"} || status=$?
    ((status == PREEMPTED)) || exit "$status"
    resume=(--resume)
done
