#!/usr/bin/env bash
# Turns films into features, a share of them in each task; the arguments are those of preprocess_videos.py.
#   sbatch --array=1-8 jobs/slurm-preprocess.sh
#   sbatch --array=1-8 jobs/slurm-preprocess.sh --weights resnet18.pth           where nodes cannot download
# The array must start at 1 and be sent whole: of the films that are finished nothing is done again. A task that is
# stopped keeps the films that it has finished and goes back into the queue.
#SBATCH --job-name=preprocess
#SBATCH --output=slurm-%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=8G
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
source jobs/slurm.sh || exit 2
need_array

run preprocess_videos.py --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
