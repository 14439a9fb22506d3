# shellcheck shell=bash
# How slurm_train.sh and slurm_test.sh make a job. They source this, with the arguments PARTITION JOB ... of their own.
PARTITION=$1
JOB=$2

# Within an allocation the defaults are what was allocated. More on a node than there are in all would be too many.
GPUS=${GPUS:-${SLURM_NTASKS:-8}}
per_node=${GPUS_PER_NODE:-$((${SLURM_JOB_ID:-0} ? (GPUS - 1) / ${SLURM_JOB_NUM_NODES:-1} + 1 : 8))}
((per_node <= GPUS)) || per_node=$GPUS
resources=(
    ${PARTITION:+--partition "$PARTITION"} --job-name "$JOB"
    --ntasks "$GPUS" --ntasks-per-node "$per_node" --cpus-per-task "${CPUS_PER_TASK:-${SLURM_CPUS_PER_TASK:-12}}"
)
# Clusters without GPUs refuse --gres; a step has what its allocation has.
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    if ! gres=$(sinfo --noheader --format %G ${PARTITION:+--partition "$PARTITION"} 2>/dev/null) || [[ $gres == *gpu* ]]; then
        resources+=(--gres "gpu:$per_node")
    fi
fi

# Words as a shell reads them, quotes included, but nothing is expanded.
mapfile -t srun_args < <(xargs -rn1 printf '%s\n' <<<"${SRUN_ARGS:-}")
mapfile -t sbatch_args < <(xargs -rn1 printf '%s\n' <<<"${SBATCH_ARGS:-}")

# BATCH=1: submit the script that sources this, as it was called, and leave.
if [[ -n ${BATCH:-} && -z ${SLURM_JOB_ID:-} ]]; then
    logs=work_dirs/slurm
    mkdir -p "$logs"
    number=$(sbatch --parsable "${resources[@]}" --requeue --open-mode append --signal USR1@120 \
        --output "$logs/%x-%j.log" ${sbatch_args[@]+"${sbatch_args[@]}"} --wrap "exec bash $(printf '%q ' "$0" "$@")")
    echo "Job ${number%%;*} is queued. Its log will be $logs/$JOB-${number%%;*}.log, unless SBATCH_ARGS says otherwise."
    exit
fi
