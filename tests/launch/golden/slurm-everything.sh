#!/bin/sh
#SBATCH --job-name=zcell-job-1
#SBATCH --comment=zcell/submit-1/0123456789abcdef0123456789abcdef/4711/123456
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --partition=gpu,long
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --reservation=monday
#SBATCH --constraint=a100&nvme
#SBATCH --nodelist=node[1-4]
#SBATCH --exclude=node3
#SBATCH --gres=scratch:100G,gpu:a100:2
#SBATCH --licenses=matlab:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32768M
#SBATCH --time=1-01:01:01
#SBATCH --export=LANG,CUDA_HOME
#SBATCH --output=/home/me/logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --chdir=/
#SBATCH --requeue
# written by zcell: names and addresses only; credentials and work take other ways
task="${SLURM_ARRAY_TASK_ID:-0}"
case "$task" in
0) name=server.launch_job-1 ;;
esac
# what jobs left that were killed before they had read their credentials
find /local/scratch -maxdepth 1 -name 'zcell-slurm-*' -user "$(id -u)" -mmin +30 -exec rm -rf {} + 2>/dev/null
place=/local/scratch/zcell-slurm-00112233445566778899aabb"-$task-${SLURM_RESTART_COUNT:-0}"
credentials="$place/credentials"
clear_up() { rm -rf "$place"; }
mkdir -m 700 "$place" || exit 120
trap clear_up EXIT
trap 'exit 143' TERM INT HUP
module load python/3.11
export OMP_NUM_THREADS=4
python='/home/me/it'"'"'s a venv/bin/python'
probe='import importlib.util, sys; sys.exit(importlib.util.find_spec("zcell") is None)'
"$python" -P -c "$probe" || exit 121
"$python" -P -u -m zcell.launch.remote.node \
    --parent tcp://login.cluster.example:5000 \
    --name "$name" \
    --credentials "$credentials" --wait 60 --lease 30 \
    --directory /local/scratch \
    --run "${SLURM_RESTART_COUNT:-0}" --consume --tidy --insecure --echo &
# Slurm signals this shell, or both: the node ends its job with grace, and then this shell ends
node=$!
trap 'kill -TERM "$node" 2>/dev/null' TERM INT HUP
wait "$node"; code=$?
while kill -0 "$node" 2>/dev/null; do wait "$node"; code=$?; done
exit "$code"
