# shellcheck shell=bash
# Makes a job for slurm_train.sh and slurm_test.sh, which source this with their arguments PARTITION JOB CONFIG ...
# What can be refused is refused here: a job may wait for hours before it fails.
PARTITION=$1
JOB=$2

refuse() {
    echo "$*" >&2
    exit 2
}

# Split a variable into the array `words` as a shell does, with quotes but without expansion.
split() {
    local text
    text=$(xargs -rn1 printf '%s\n' <<<"${!1:-}") || refuse "$1 has quotes that do not match: ${!1}"
    words=()
    [[ -z $text ]] || mapfile -t words <<<"$text"
}
split SRUN_ARGS
srun_args=(${words[@]+"${words[@]}"})
split SBATCH_ARGS
sbatch_args=(${words[@]+"${words[@]}"})

name=${CONFIG#omnimae::} # as find_config of omnimae/config.py
name=${name#configs/}
name=configs/${name%.py}.py
[[ -e $CONFIG || -f $name || -f $TOOLS/../$name ]] ||
    refuse "'$CONFIG' is no file, no folder and no name of a config. It was looked for in $PWD. Give the path of a" \
        'config, or a name, such as custom/pretrain.'
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK; do
    [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || refuse "$name must be a whole number of at least 1, got '${!name}'."
done
if known=$(sinfo --noheader --all --format %R 2>/dev/null); then
    for name in ${PARTITION//,/ }; do
        grep -qxF -- "$name" <<<"$known" ||
            refuse "There is no partition '$name'. Give one of this cluster as the first argument: $(sort -u <<<"$known" | xargs)."
    done
fi

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
        # GPUs of a node, such as gpu:a100:4(S:0-1),gpu:v100:2
        most=$(awk -F , '{
            n = 0
            for (i = 1; i <= NF; i++) if (sub(/^gpu:/, "", $i)) { sub(/\(.*/, "", $i); sub(/.*:/, "", $i); n += $i }
            if (n > most) most = n
        } END { print most + 0 }' <<<"$gres")
        ((most == 0 || per_node <= most)) ||
            refuse "GPUS=$GPUS with GPUS_PER_NODE=$per_node: a node of partition '$PARTITION' has $most GPUs at most. Set" \
                "GPUS_PER_NODE=$most, or GPUS=$most for one node."
    fi
fi
asked="If Slurm refused the job, ask for less, or for another partition. It was asked for: ${resources[*]}."

# BATCH=1: submit the calling script with its arguments, and exit.
if [[ -n ${BATCH:-} && -z ${SLURM_JOB_ID:-} ]]; then
    logs=work_dirs/slurm
    mkdir -p "$(dirname "$logs/$JOB")" # Slurm makes no folders, and ends a job without a folder for its log
    number=$(sbatch --parsable "${resources[@]}" --requeue --open-mode append --signal USR1@120 \
        --output "$logs/$JOB-%j.log" ${sbatch_args[@]+"${sbatch_args[@]}"} \
        <<<"#!/usr/bin/env bash"$'\n'"exec bash $(printf '%q ' "$0" "$@")") || refuse "The job was not queued. $asked"
    number=${number%%;*}
    limit=$(value "$number" TimeLimit || true)
    if [[ " ${sbatch_args[*]-}" != *' --signal'* && $limit == *:* ]] && (($(seconds "$limit") < 300)); then
        scancel "$number"
        refuse "The time limit $limit leaves no time to train: the signal to save comes 2 to 3 minutes before it. Ask for" \
            "more with SBATCH_ARGS='--time 24:00:00', or have the signal later: SBATCH_ARGS='--signal USR1@30'."
    fi
    echo "Job $number is queued. Its log will be $logs/$JOB-$number.log, unless SBATCH_ARGS says otherwise."
    exit
fi
