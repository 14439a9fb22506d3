#!/usr/bin/env bash
# Train on a Slurm cluster:  bash tools/slurm_train.sh PARTITION JOB CONFIG [arguments of train.py]
# It waits for the job (srun). BATCH=1 submits it instead (sbatch), with the log work_dirs/slurm/JOB-NUMBER.log. In your
# own batch script or allocation it is a step.
# Environment: GPUS (in all, 8), GPUS_PER_NODE (8), CPUS_PER_TASK (12), SRUN_ARGS and SBATCH_ARGS (more arguments, such
# as SBATCH_ARGS='--time 24:00:00 --qos long --comment "two words"'), and Slurm's own variables.
# After preemption, at the time limit and after SIGUSR1 a run saves and is queued again with --resume. BATCH=1 requests
# the signal 120 s before the limit. Otherwise add SRUN_ARGS='--time 24:00:00 --signal USR1@120'. An error ends the job,
# and so does scancel (exit code 143).
set -euo pipefail
if (($# < 3)); then
    sed -n '2,9s/^# //p' "$0" >&2
    echo "PARTITION, JOB and CONFIG are needed, got '$*'." >&2
    exit 2
fi
CONFIG=$3
TOOLS=$(dirname "$0")
if [[ ! -f $TOOLS/slurm.sh ]]; then
    echo "sbatch runs a copy of this script, which does not find the others. Say BATCH=1 bash tools/slurm_train.sh, or call" \
        'it in a batch script of your own.' >&2
    exit 2
fi
source "$TOOLS/slurm.sh"

PREEMPTED=75 # exit code of train.py after a signal
CANCELLED=143
note=$(mktemp -p . .slurm_train.XXXXXX) # here, where all nodes see it
trap 'rm -f "$note"' EXIT

# On each rank: note the job and its signals, which the exit code does not tell; some come before train.py listens.
# shellcheck disable=SC2016
rank='note=$1; shift
echo "job $SLURM_JOB_ID" >>"$note"
for signal in USR1 TERM; do trap "echo $signal >>\"$note\"" "$signal"; done
code=0
"$@" || code=$?
if ((code == 128 + $(kill -l USR1) || code == 128 + $(kill -l TERM))); then code=75; fi
exit $code'

export PYTHONPATH="$TOOLS/..:${PYTHONPATH:-}"
train=(
    srun "${resources[@]}" --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} bash -c "$rank" rank "$note"
    python -u "$TOOLS/train.py" "$CONFIG" --launcher slurm "${@:4}"
)
if ((${SLURM_RESTART_COUNT:-0} > 0)); then train+=(--resume); fi

# In a batch job this process gets signals, too: --signal B:USR1@120 sends them to nobody else.
train_in_batch() {
    local status interrupted
    "${train[@]}" &
    trap 'interrupted=1; kill -USR1 $!' USR1
    trap 'interrupted=1' TERM
    while interrupted=; do
        status=0
        wait $! || status=$?
        [[ -n $interrupted ]] || return "$status"
    done
}

# Whether Slurm stopped the run, not a person or the failure of a rank. Both send SIGTERM.
is_preempted() {
    local job limit
    job=$(sed -n 's/^job //p;q' "$note")
    [[ -n $job ]] || return # the nodes do not see this folder, so nobody knows
    if ! grep -q TERM "$note" || grep -q USR1 "$note"; then return 0; fi
    [[ $(value "$job" PreemptTime) == 2* ]] || (($(value "$job" Restarts) > ${SLURM_RESTART_COUNT:-0})) || {
        limit=$(value "$job" TimeLimit)
        [[ $limit == *:* ]] && (($(seconds "$(value "$job" RunTime)") >= $(seconds "$limit")))
    }
}

while true; do
    : >"$note"
    status=0
    if [[ ${ENVIRONMENT:-} == BATCH ]]; then
        train_in_batch || status=$?
    else
        "${train[@]}" || status=$?
    fi
    if ((status != PREEMPTED)); then
        [[ -s $note ]] || echo "No rank has started. $asked" >&2
        exit "$status"
    fi
    if ! is_preempted; then
        echo 'The job was cancelled, or a rank failed: it is not queued again. Go on with --resume.' >&2
        exit "$CANCELLED"
    fi
    if [[ -n ${SLURM_JOB_ID:-} ]]; then
        scontrol requeue "$SLURM_JOB_ID" || echo 'The job cannot be queued again. Go on with --resume.' >&2
        exit "$PREEMPTED"
    fi
    train+=(--resume)
done
