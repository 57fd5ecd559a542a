#!/usr/bin/env bash
# Trains several configurations, each with several seeds, a run a task; the arguments are YAML files, and others of
# train.py that hold for all.
#   sbatch --array=1-2 jobs/slurm-array.sh config-files/transformer.yaml config-files/mlstm.yaml       both with seed 0
#   sbatch --array=1-3 jobs/slurm-array.sh config-files/transformer.yaml                   with seeds 0, 1 and 2
#   sbatch --array=1-6 jobs/slurm-array.sh config-files/transformer.yaml config-files/mlstm.yaml training.n_epochs=20
# Of K files, tasks 1 to K train each with seed 0, the next K with seed 1, and so on. Runs are called transformer-seed0,
# so that evaluate.py makes one row of the seeds. Each task is put back into the queue as that of slurm-train.sh is.
#SBATCH --job-name=array
#SBATCH --output=slurm-%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=6
#SBATCH --mem-per-cpu=8G
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
source jobs/slurm.sh || exit 2
need_array

configs=() words=()
for word in "$@"; do
    if [[ $word == *.yaml ]]; then configs+=("$word"); else words+=("$word"); fi
done
if [ ${#configs[@]} -eq 0 ]; then
    echo "slurm-array.sh: name the YAML files to train: sbatch --array=1-2 jobs/slurm-array.sh a.yaml b.yaml" >&2
    exit 2
fi
index=$((SLURM_ARRAY_TASK_ID - 1))
config=${configs[index % ${#configs[@]}]}
seed=$((index / ${#configs[@]}))
run train.py --resume -f "$config" name="$(basename "$config" .yaml)-seed$seed" training.seed="$seed" "${words[@]}"
