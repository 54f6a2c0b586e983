#!/bin/sh
# Checks with a low and a high end: a value that is too good is wrong too. The exit status is 0 only inside.
#   devices COUNT NAME MIB LOW HIGH [shared]    accelerators of that name with LOW to HIGH x MIB; shared: N/A is right too
#   allreduce PROCESSES LOW HIGH       bus bandwidth in GB/s. NODES, RANK and MASTER: for several machines
#   bench URL PLAN                     traffic of the plan against its intervals; the variable ARCHWRIGHT_KEY has the key
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
case "${1:-}" in
devices)
  if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits > "$folder/list"
  else
    # The table of the other vendor has no memory in a stable column.
    rocm-smi --showproductname --csv | awk -v mib="$4" '/^card/ { print $0 ", " mib }' > "$folder/list"
  fi
  awk -F', *' -v n="$2" -v name="$3" -v mib="$4" -v low="$5" -v high="$6" -v shared="${7:-}" '
    # The driver states no memory that the processor shares; the name alone decides then.
    NF { all++; fits = $NF ~ /N\/A/ ? shared == "shared" : $NF >= low * mib && $NF <= high * mib
         if (tolower($0) ~ tolower(name) && fits) good++ }
    END { printf "devices: %d listed, %d as planned, %d planned (%s)\n", all, good, n, name
          exit !(all == n && good == n) }' "$folder/list" ;;
allreduce)
  cat > "$folder/allreduce.py" << 'END'
import os, time, torch, torch.distributed as dist
gpu, rank = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
wait = (lambda: torch.cuda.synchronize(rank)) if gpu else (lambda: None)
if gpu:
    torch.cuda.set_device(rank)
dist.init_process_group("nccl" if gpu else "gloo")
data = torch.ones(int(os.environ.get("ELEMENTS", 2**28)), device=torch.device("cuda", rank) if gpu else "cpu")
for step in range(25):
    if step == 5:
        wait(); start = time.perf_counter()
    dist.all_reduce(data)
wait()
n, seconds = dist.get_world_size(), (time.perf_counter() - start) / 20
print("busbw", data.nbytes / seconds * 2 * (n - 1) / n / 1e9)
dist.destroy_process_group()
END
  python3 -P -m torch.distributed.run --nnodes="${NODES:-1}" --node-rank="${RANK:-0}" --nproc-per-node="$2" \
    --master-addr="${MASTER:-127.0.0.1}" --master-port=29500 "$folder/allreduce.py" > "$folder/out"
  awk -v low="$3" -v high="$4" '/^busbw/ && !seen++ { printf "allreduce: %.3f GB/s, expected %s to %s\n", $2, low, high
    good = $2 >= low && $2 <= high } END { exit !good }' "$folder/out" ;;
bench)
  archwright bench "$2" --against "$3" --key-env ARCHWRIGHT_KEY --json > "$folder/result.json"
  # Between these lines stands the file for: archwright reconcile plan.json --report result.json
  echo "----- result.json"; cat "$folder/result.json"; echo; echo "----- end of result.json"
  archwright reconcile "$3" --report "$folder/result.json" --gate ;;
*) sed -n '3,5p' "$0" >&2; exit 2 ;;
esac
