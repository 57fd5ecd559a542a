#!/usr/bin/env bash
# Trains one model; the arguments are those of train.py.
#   sbatch jobs/slurm-train.sh -f config-files/transformer.yaml
#   sbatch --gres=gpu:4 --ntasks-per-node=4 jobs/slurm-train.sh -f config-files/mlstm.yaml name=mlstm-deep
#   sbatch --nodes=2 --gres=gpu:4 --ntasks-per-node=4 jobs/slurm-train.sh -f config-files/mlstm.yaml
# A GPU for each task; training.num_devices is not needed. Two minutes before its time is up, or when it is preempted,
# the run keeps a checkpoint and the job goes back into the queue, to go on from that very step.
#SBATCH --job-name=train
#SBATCH --output=slurm-%x-%j.out
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

run train.py --resume "$@"
