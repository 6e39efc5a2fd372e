#!/bin/sh
#SBATCH --job-name=zcell-job-1
#SBATCH --comment=zcell/submit-1/0123456789abcdef0123456789abcdef/4711/123456
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --export=NONE
#SBATCH --output=/dev/null
#SBATCH --open-mode=append
#SBATCH --chdir=/
#SBATCH --no-requeue
# written by zcell: names and addresses only; credentials and work take other ways
task="${SLURM_ARRAY_TASK_ID:-0}"
case "$task" in
0) name=server.launch_job-1 ;;
esac
# what jobs left that were killed before they had read their credentials
find /tmp -maxdepth 1 -name 'zcell-slurm-*' -user "$(id -u)" -mmin +30 -exec rm -rf {} + 2>/dev/null
place=/tmp/zcell-slurm-00112233445566778899aabb"-$task-${SLURM_RESTART_COUNT:-0}"
credentials="$place/credentials"
clear_up() { rm -rf "$place"; }
mkdir -m 700 "$place" || exit 120
trap clear_up EXIT
trap 'exit 143' TERM INT HUP
python=/usr/bin/python3
probe='import importlib.util, sys; sys.exit(importlib.util.find_spec("zcell") is None)'
"$python" -P -c "$probe" || exit 121
"$python" -P -u -m zcell.launch.remote.node \
    --parent tcp://127.0.0.1:5000 \
    --name "$name" \
    --credentials "$credentials" --wait 60 --lease 30 \
    --directory /tmp \
    --run "${SLURM_RESTART_COUNT:-0}" --consume --tidy &
# Slurm signals this shell, or both: the node ends its job with grace, and then this shell ends
node=$!
trap 'kill -TERM "$node" 2>/dev/null' TERM INT HUP
wait "$node"; code=$?
while kill -0 "$node" 2>/dev/null; do wait "$node"; code=$?; done
exit "$code"
