#!/usr/bin/env bash
# Test on a Slurm cluster:  bash tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [arguments of test.py]
# Environment variables as of slurm_train.sh. TOOL=extract_features.py runs that tool instead of test.py.
set -euo pipefail
if (($# < 4)); then
    sed -n '2,3s/^# //p' "$0" >&2
    echo "PARTITION, JOB, CONFIG and CHECKPOINT are needed, got '$*'." >&2
    exit 2
fi
CONFIG=$3
CHECKPOINT=$4
TOOLS=$(dirname "$0")
if [[ ! -f $TOOLS/slurm.sh ]]; then
    echo "sbatch runs a copy of this script, which does not find the others. Say BATCH=1 bash tools/slurm_test.sh, or call" \
        'it in a batch script of your own.' >&2
    exit 2
fi
[[ $CHECKPOINT == *://* || -e $CHECKPOINT ]] || {
    echo "$CHECKPOINT: no such checkpoint file. Give a file, an address, or the folder of a training." >&2
    exit 2
}
source "$TOOLS/slurm.sh"

# A rank that fails ends the job.
PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}" exec srun "${resources[@]}" --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
    python -u "$TOOLS/${TOOL:-test.py}" "$CONFIG" "$CHECKPOINT" --launcher slurm "${@:5}"
