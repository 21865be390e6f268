#!/usr/bin/env bash
#SBATCH --job-name=mllm
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=slurm-%j.log
# A launch script on all machines of a SLURM job, to be submitted from the project's folder on a shared disk:
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/slurm.sh scripts/lora.sh RECIPE [key=value ...] [--resume]
#
# srun starts the deepspeed launcher once on each machine, without ssh; that starts one process per GPU.
# PROCESSES: on each machine; default: its GPUs.
set -euo pipefail
usage="usage: sbatch --nodes N --gpus-per-node G scripts/slurm.sh scripts/lora.sh RECIPE [key=value ...] [--resume]"
cd "${SLURM_SUBMIT_DIR:?$usage}" # this file itself runs from a copy in SLURM's spool
[ -x "${1:?$usage}" ] || { echo "error: there is no $1 in $PWD; $usage" >&2 && exit 2; }
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:?$usage}}
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HOSTFILE=$PWD/hostfile-$SLURM_JOB_ID MASTER_ADDR=${machines[0]}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
trap 'rm -f "$HOSTFILE"' EXIT
printf "%s slots=$processes\n" "${machines[@]}" >"$HOSTFILE"
# The one task of a machine has all of its cores, and takes the others with it when it fails.
srun --nodes="${#machines[@]}" --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 \
    bash -c 'NODE_RANK=$SLURM_NODEID exec "$@"' slurm.sh "$@"
