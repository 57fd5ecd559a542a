#!/usr/bin/env bash
# Trains the runs of a sweep, one a task; the arguments are those of recognition.sweep.
#   python -m recognition.sweep config-files/sweeps/models.yaml --list | wc -l               how many there are
#   sbatch --array=1-18 jobs/slurm-sweep.sh config-files/sweeps/models.yaml
#   python -m recognition.sweep config-files/sweeps/models.yaml                              when all have ended: the comparison
# Failed tasks can be sent again by their numbers: --array=3,7. Each task is put back into the queue as that of
# slurm-train.sh is.
#SBATCH --job-name=sweep
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

run -m recognition.sweep --run "$SLURM_ARRAY_TASK_ID" "$@"
