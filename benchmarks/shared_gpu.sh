#!/usr/bin/env bash
# Time steps of several processes that share a GPU (RUNS=6), without and with NVIDIA's multi-process service: each takes
# 110 of cMax with EfficientNet-Lite0 at 160 px, and is ended after LIMIT=45 seconds. One process alone comes first.
# A trial without a GPU: DEVICE=cpu RUNS=2 ARCHITECTURE=resnet18 SIZE=32 BATCH=2 REPEATS=1 bash benchmarks/shared_gpu.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. benchmarks/common.sh
device=${DEVICE:-cuda} runs=${RUNS:-6} limit=${LIMIT:-45} results=${RESULTS:-experiments/benchmarks}
prepare "$device" tests/requirements.txt cv2,skimage,sklearn,timm,torchvision,tqdm
words=(--device "$device" --architecture "${ARCHITECTURE:-timm/tf_efficientnet_lite0}" --image_size "${SIZE:-160}")
words+=(--batch_size "${BATCH:-16}" --strategies cMax --figures ours --channels_last False --repeats "${REPEATS:-100}")

at_a_time() { # how many, name of the results
    echo "== $1 at a time, $2"
    for ((run = 1; run <= $1; run++)); do
        timeout -k 5 "$limit" python -m benchmarks.step "${words[@]}" --warm_up 10 --output "$results/shared_$2_$run.json" ||
            echo "$run: not done after $limit seconds" &
    done
    wait
}

at_a_time 1 alone
at_a_time "$runs" turns
start_mps "$device" && at_a_time "$runs" service || echo "no multi-process service"
