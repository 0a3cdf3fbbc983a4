#!/bin/bash
# Made by `lorajax launch --config cluster.toml --emit slurm`. With the environment that has lorajax active:
#   sbatch slurm.sh [CONFIG]
# Every node must see CONFIG, the model and the adapters. Without GPUs delete the line that asks for them.
#SBATCH --job-name=lorajax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --signal=TERM@90
#SBATCH --output=%x-%j.log
set -euo pipefail

# One launcher per node; when one of them gives up, the job ends.
exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 --unbuffered \
    lorajax launch --config "${1:-cluster.toml}"
