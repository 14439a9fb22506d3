# shellcheck shell=bash
# Makes a job for slurm_train.sh and slurm_test.sh, which source this with their arguments PARTITION JOB ...
PARTITION=$1
JOB=$2

# Split a variable into the array `words` as a shell does, with quotes but without expansion.
split() {
    local text
    if ! text=$(xargs -rn1 printf '%s\n' <<<"${!1:-}"); then
        echo "$1 has quotes that do not match: ${!1}" >&2
        exit 2
    fi
    words=()
    [[ -z $text ]] || mapfile -t words <<<"$text"
}
split SRUN_ARGS
srun_args=(${words[@]+"${words[@]}"})
split SBATCH_ARGS
sbatch_args=(${words[@]+"${words[@]}"})

# One value of a job. The number of an array's job also shows the whole array.
value() { # JOB KEY
    scontrol --oneliner show job "$1" | sed -n "/^JobId=$1 /s/.* $2=\([^ ]*\).*/\1/p"
}
seconds() { # [DAYS-]HOURS:MINUTES:SECONDS
    awk -F '[-:]' '{ print (NF > 3) * $1 * 86400 + $(NF - 2) * 3600 + $(NF - 1) * 60 + $NF }' <<<"$1"
}

# Within an allocation the defaults are its tasks, or a rank for each GPU.
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    nodes=${SLURM_JOB_NUM_NODES:-1}
    GPUS=${GPUS:-${SLURM_NTASKS:-$((${SLURM_GPUS_ON_NODE:-1} * nodes))}}
    per_node=${GPUS_PER_NODE:-$(((GPUS - 1) / nodes + 1))}
    cpus=${CPUS_PER_TASK:-${SLURM_CPUS_PER_TASK:-}}
else
    GPUS=${GPUS:-8}
    per_node=${GPUS_PER_NODE:-8}
    cpus=${CPUS_PER_TASK:-12}
fi
((per_node <= GPUS)) || per_node=$GPUS
resources=(
    ${PARTITION:+--partition "$PARTITION"} --job-name "$JOB"
    --ntasks "$GPUS" --ntasks-per-node "$per_node" ${cpus:+--cpus-per-task "$cpus"}
)
# No --gres on clusters without GPUs, in an allocation, or if other arguments request GPUs.
if [[ -z ${SLURM_JOB_ID:-} && ! " ${srun_args[*]-} ${sbatch_args[*]-}" =~ \ (--gres|--gpus|-G) ]]; then
    if ! gres=$(sinfo --noheader --format %G ${PARTITION:+--partition "$PARTITION"} 2>/dev/null) || [[ $gres == *gpu* ]]; then
        resources+=(--gres "gpu:$per_node")
    fi
fi

# BATCH=1: submit the calling script with its arguments, and exit.
if [[ -n ${BATCH:-} && -z ${SLURM_JOB_ID:-} ]]; then
    logs=work_dirs/slurm
    mkdir -p "$(dirname "$logs/$JOB")" # Slurm makes no folders, and ends a job without a folder for its log
    number=$(sbatch --parsable "${resources[@]}" --requeue --open-mode append --signal USR1@120 \
        --output "$logs/$JOB-%j.log" ${sbatch_args[@]+"${sbatch_args[@]}"} \
        <<<"#!/usr/bin/env bash"$'\n'"exec bash $(printf '%q ' "$0" "$@")")
    number=${number%%;*}
    limit=$(value "$number" TimeLimit || true)
    if [[ " ${sbatch_args[*]-}" != *' --signal'* && $limit == *:* ]] && (($(seconds "$limit") < 300)); then
        scancel "$number"
        echo "The time limit $limit leaves no time to train: the signal to save comes 2 to 3 minutes before it. Ask for" \
            "more with SBATCH_ARGS='--time 24:00:00', or have the signal later: SBATCH_ARGS='--signal USR1@30'." >&2
        exit 2
    fi
    echo "Job $number is queued. Its log will be $logs/$JOB-$number.log, unless SBATCH_ARGS says otherwise."
    exit
fi
