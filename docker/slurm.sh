#!/bin/bash
# A study on the nodes of one Slurm job: Ray starts on each, the study runs on the first one. In the checkout:
#   sbatch docker/slurm.sh studies/digits.yaml --set storage=/shared/results
#   sbatch --nodes=8 --gpus-per-node=4 docker/slurm.sh studies/cifar10.yaml --set storage=/shared/results \
#     --set resources.gpu=0.5
# `storage` is a folder that every node sees, or a store's URL. The package must be installed for the Python in
# $PUZZLE_PYTHON (.venv/bin/python of the checkout), under the same path on every node. Before the time limit, and when
# Slurm preempts the job, the study stops and goes back to the queue; there it continues from its checkpoints.
#SBATCH --job-name=puzzle_study
#SBATCH --output=puzzle_study-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
set -euo pipefail

if [ -z "${SLURM_JOB_ID:-}" ] || [ $# -eq 0 ]; then
  echo "usage: sbatch [OPTIONS OF sbatch] docker/slurm.sh STUDY.yaml [OPTIONS OF puzzle_study.tune]" >&2
  exit 2
fi

python=${PUZZLE_PYTHON:-$PWD/.venv/bin/python}
export PUZZLE_RAY=${python%/*}/ray
# The batch script runs on the job's first node. Other jobs on it have other ports and folders.
PUZZLE_HEAD=$(hostname)
export PUZZLE_HEAD PUZZLE_PORT=$((20000 + SLURM_JOB_ID % 20000)) PUZZLE_TMP=/tmp/puzzle_$SLURM_JOB_ID
# A token for this job alone: without it, Ray's processes refuse everybody.
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Otherwise a worker would take Slurm's number of threads instead of its trial's CPUs.
unset OMP_NUM_THREADS

# shellcheck disable=SC2016  # expanded on the nodes
srun --kill-on-bad-exit=1 bash -c '
  ulimit -n "$(ulimit -Hn)"
  options="--num-cpus=${SLURM_CPUS_PER_TASK:-1} --num-gpus=${SLURM_GPUS_ON_NODE:-0} --disable-usage-stats --block"
  if [ "$SLURM_PROCID" -eq 0 ]; then
    mkdir -m 700 -p "$PUZZLE_TMP"
    exec "$PUZZLE_RAY" start --head --port="$PUZZLE_PORT" --temp-dir="$PUZZLE_TMP/ray" --include-dashboard=false $options
  fi
  until "$PUZZLE_RAY" health-check --address "$PUZZLE_HEAD:$PUZZLE_PORT" >/dev/null 2>&1; do sleep 2; done
  exec "$PUZZLE_RAY" start --address="$PUZZLE_HEAD:$PUZZLE_PORT" $options' &
nodes=$!
trap 'kill "$nodes" 2>/dev/null || true; rm -rf "$PUZZLE_TMP"' EXIT

"$python" - <<'WAIT'
import os, subprocess, time

import ray

address = f"{os.environ['PUZZLE_HEAD']}:{os.environ['PUZZLE_PORT']}"
end, wanted, there = time.monotonic() + 600, int(os.environ["SLURM_JOB_NUM_NODES"]), 0
answers = [os.environ["PUZZLE_RAY"], "health-check", "--address", address]
while time.monotonic() < end and subprocess.run(answers, capture_output=True).returncode != 0:
    time.sleep(2)
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
while time.monotonic() < end and there < wanted:
    there = sum(node["Alive"] for node in ray.nodes())
    time.sleep(1)
if there < wanted:
    raise SystemExit(f"error: {there} of {wanted} nodes have joined Ray after 10 minutes; see the lines above")
WAIT

study='' stopped=''
trap 'stopped=yes; kill -TERM $study 2>/dev/null || true' TERM
# --resume also starts a new study.
"$python" -m puzzle_study.tune "$@" --resume --address "$PUZZLE_HEAD:$PUZZLE_PORT" &
study=$!
# The signal may have come before the study had a number; if not, the study may have ended by it.
[ -z "$stopped" ] || kill -TERM "$study" 2>/dev/null || true
code=0
wait "$study" || code=$?
if [ -n "$stopped" ]; then
  # The signal ends the first wait, not the study.
  code=0
  wait "$study" || code=$?
  [ "$code" -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
