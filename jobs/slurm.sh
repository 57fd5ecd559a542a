# shellcheck shell=bash
# What the slurm-*.sh scripts share. They source it from the folder that sbatch was called in, the project's, where also
# slurm-<job>.out is written: all that a job prints, also after it was requeued. Add the account and partition that your
# cluster wants as options of sbatch, or to the #SBATCH lines.
#
# PYTHON is the interpreter, and may be several words:
#   PYTHON='apptainer exec --nv memory.sif python' sbatch jobs/slurm-train.sh -f config-files/transformer.yaml
set -euo pipefail
read -ra python <<<"${PYTHON:-.venv/bin/python}"

# need_array: ends a job that is no task of an array, or one that is not counted from 1.
need_array() {
    if [ "${SLURM_ARRAY_TASK_ID:-0}" -lt 1 ]; then
        echo "sbatch: this job needs an array that starts at 1, such as --array=1-8" >&2
        exit 2
    fi
}

# run SCRIPT [ARGUMENT...]: runs a script of this project as a job step, and ends the job with its exit status.
#
# SLURM sends SIGUSR1 to the step before the time is up, and SIGTERM when the job is preempted. The script then keeps
# its work and ends with status 75, on which the job goes back into the queue; so it does when the signal itself ended
# the step, which had not got so far as to answer (128 + 10 or 15). A cancelled job does not: scancel also ends this
# shell. Nor does one whose input was wrong (status 2) or whose work failed (1).
run() {
    local job=$SLURM_JOB_ID status=0
    # The job id alone can stand for the whole array.
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    # From SLURM 22.05 on srun would give each task one core.
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    # Each task learns its place from the variables of torchrun. torchrun itself would die of SIGUSR1, and makes every
    # status a 1.
    export MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID=$SLURM_JOB_ID
    MASTER_ADDR=$(hostname)
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
    # shellcheck disable=SC2016  # each task has values of its own
    local place='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID GROUP_RANK=$SLURM_NODEID WORLD_SIZE=$SLURM_NTASKS
        export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES)); exec "$@"'
    # Some clusters end all tasks once one has failed; they would answer that as a stop, and the job would never end.
    srun --kill-on-bad-exit=0 bash -c "$place" bash "${python[@]}" "$@" || status=$?
    case $status in 75 | 138 | 143) scontrol requeue "$job" ;; esac
    exit "$status"
}
