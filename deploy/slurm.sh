#!/bin/bash
# A sweep on the nodes of a Slurm job:  sbatch deploy/slurm.sh digits-1 digits --data corpora/digits
#
# The first word is the name of the sweep, the others are those of `platform sweep`. Before its time is over, or a job of
# higher priority takes its nodes, trials save what they have and the job is queued again, as it is after the loss of a
# node; it then goes on with the sweep. Export ASR_PLATFORM_STORAGE and ASR_PLATFORM_LEDGER before sbatch; without them,
# the home must be in a folder that all nodes see. Nodes are asked for as a whole: at its end, symmetric-run stops
# whatever Ray the user runs on them.
#SBATCH --job-name=asr-platform
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --output=%x-%j.log
set -euo pipefail

: "${2:?give a name and a space: sbatch deploy/slurm.sh NAME SPACE --data DIR}"
export ASR_PLATFORM_CACHE="${ASR_PLATFORM_CACHE:-${TMPDIR:-/tmp}/asr-platform-$(id -un)}"  # each node's own disk

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")  # a line for each
address="${nodes%%$'\n'*}:${RAY_PORT:-6379}"
pid="$(mktemp)"  # of the sweep, which runs on this node: the first

leave() {
    trap '' USR1
    if kill -USR1 "$(cat "$pid")"; then  # it has 90 s; Slurm gives two minutes
        for _ in {1..100}; do
            kill -0 "$step" 2> /dev/null || break
            sleep 1
        done
    fi
    scontrol requeue "$SLURM_JOB_ID"
}
trap leave USR1

# Each node starts Ray; once all are there, the first runs the command. Its end is the end of the job.
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    env RAY_ADDRESS="$address" ASR_SWEEP_PID="$pid" "${SLURM_SUBMIT_DIR:-.}/deploy/asr-sweep" "$@" &
step=$!
wait "$step"
