#!/usr/bin/env bash
# Run every benchmark and the golden steps on a GPU, in under nine minutes, those first that decide most; ours is compared
# with the published algorithm in float32. Results are written to experiments/benchmarks/ (RESULTS). What is not measured
# when the time is over is named.
# Other sizes, or a trial without a GPU: DEVICE=cpu ARCHITECTURE=resnet18 BATCH=2 SIZE=64 REPEATS=1 bash benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
device=${DEVICE:-cuda} limit=${LIMIT:-530} repeats=${REPEATS:-10}
results=${RESULTS:-experiments/benchmarks}
. benchmarks/common.sh
prepare "$device" tests/requirements.txt cv2,hypothesis,jinja2,pytest,skimage,sklearn,timm,torchvision,tqdm,yaml

failed=()
stage() { # run a command within the remaining time, and a quarter of all, so that a slow one leaves time for the others
    local left=$((limit - SECONDS)) most=$((limit / 4))
    left=$((left < most ? left : most))
    if ((left < 5)); then
        failed+=("$* (no time left)")
    else
        echo "== $*"
        timeout -k 5 "$left" "$@" || failed+=("$*")
    fi
}
sizes=(--device "$device" --architecture "${ARCHITECTURE:-resnet50}" --image_size "${SIZE:-512}" --batch_size "${BATCH:-32}")
step() { # name of the result, further arguments
    stage python -m benchmarks.step "${sizes[@]}" --output "$results/$1.json" "${@:2}"
}
workers=$(nproc)

step "step_${device}_bf16" --figures ours,limit --repeats "$repeats" --precision bf16
step "step_${device}_float32" --figures ours,limit --repeats "$repeats"
step "step_${device}_original" --figures original --repeats "$((repeats < 3 ? repeats : 3))" --warm_up 1
for precision in bf16 float32; do
    stage python -m benchmarks.batch_norm "${sizes[@]}" --precision "$precision" --repeats "$repeats" \
        --output "$results/batch_norm_${device}_$precision.json"
done
stage python -m pytest -q -p no:cacheprovider tests/test_golden_steps.py --device "$device"
step "step_${device}_bf16_max_accumulate2" --figures ours --repeats "$repeats" --precision bf16 --strategies max --accumulate 2
step "step_${device}_float32_contiguous" --figures ours --repeats "$repeats" --channels_last False
step "step_${device}_bf16_keypoints" --figures keypoints --repeats "$repeats" --precision bf16
for precision in bf16 float32; do
    stage python -m benchmarks.evaluate "${sizes[@]}" --precision "$precision" --num_workers "$workers" --repeats 3 \
        --warm_up 1 --images "$((20 * ${BATCH:-32}))" --output "$results/evaluate_${device}_$precision.json"
done
if [ "$device" != cpu ]; then
    stage python -m benchmarks.waits "${sizes[@]}" --precision bf16 --output "$results/waits_$device.json"
fi
stage python -m benchmarks.data --workers "0,$workers" --batch_size "${BATCH:-32}" --image_size "${SIZE:-512}" --repeats 3 \
    --images "$((64 * ${BATCH:-32}))" --output "$results/data_${device}.json"
echo "== summary"
python -m benchmarks.summary "$results" "$device" || failed+=("benchmarks.summary")

echo "== $SECONDS seconds"
for command in ${failed[@]+"${failed[@]}"}; do echo "failed: $command" >&2; done
exit "$((${#failed[@]} > 0))"
