#!/bin/bash
# A search on the nodes of a SLURM allocation: `sbatch slurm.sh study.yaml`. Ray starts on all nodes,
# the search on the first; when it ends, Ray ends. Fill in what says FILL IN.
#
# Run it from a folder that all nodes share, with `storage` and `data` of the study on shared disks.

#SBATCH --job-name=goldenticket
#SBATCH --nodes=4                 # FILL IN
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16        # FILL IN
#SBATCH --gpus-per-node=0         # FILL IN
#SBATCH --time=24:00:00           # FILL IN
#SBATCH --requeue                 # after a lost node or preemption the search goes on
#SBATCH --open-mode=append

set -euo pipefail
source .venv/bin/activate         # FILL IN: an environment with goldenticket[cluster]

# Whoever reaches a Ray without a token can run code there, and nodes have other users.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # several jobs may share a node

# srun has not taken over sbatch's --cpus-per-task since SLURM 22.05: without it, one CPU per node.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    --include-dashboard=false \
    -- goldenticket search "${1:-study.yaml}" --address auto --resume-or-start
