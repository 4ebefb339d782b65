#!/usr/bin/env bash
# Measure every table of docs/performance.md on this machine's CPU: about two hours on two cores, which have to be idle.
# One table alone: bash benchmarks/cpu.sh step (or batch_norm, data, evaluate, scaling, start). Results are written to
# experiments/benchmarks/; those that the page shows are in benchmarks/results/ (RESULTS=benchmarks/results).
# A trial in minutes: ARCHITECTURE=resnet18 BATCH=2 SIZE=64 REPEATS=1 RESULTS=/tmp/results bash benchmarks/cpu.sh
# DATA="--data_dir DIR --split Main/SPLIT" reads those images instead of toy ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
results=${RESULTS:-experiments/benchmarks} repeats=${REPEATS:-3}
read -r -a data <<< "${DATA:-}"
timing=(--repeats "$repeats" --warm_up 2)
sizes=(--device cpu --architecture "${ARCHITECTURE:-resnet50}" --image_size "${SIZE:-512}")
batch=(--batch_size "${BATCH:-4}")
failed=()
measure() { # module, name of the result, further arguments
    echo "== python3 -m benchmarks.$1 ${*:3} --output $results/$2.json"
    python3 -m "benchmarks.$1" "${@:3}" --output "$results/$2.json" || failed+=("$2")
}

step() { # the table of training steps
    local all=("${sizes[@]}" "${batch[@]}" "${timing[@]}")
    measure step step_cpu_original "${all[@]}" --figures original,original_kept
    measure step step_cpu_float32 "${all[@]}" --figures ours,ours_released,limit,keypoints
    GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0 \
        measure step step_cpu_float32_compact "${all[@]}" --figures ours
    measure step step_cpu_bf16 "${all[@]}" --figures ours,ours_released,limit,keypoints --precision bf16
    measure step step_cpu_bf16_max_accumulate2 "${all[@]}" --figures ours --strategies max --accumulate 2 --precision bf16
    python3 -m benchmarks.summary "$results" cpu
}
batch_norm() {
    for precision in float32 bf16; do
        measure batch_norm "batch_norm_cpu_$precision" "${sizes[@]}" "${timing[@]}" --batch_size "${CROPS:-7}" \
            --precision "$precision"
    done
}
data() {
    measure data data_cpu "${data[@]}" --workers 0,2 --repeats "$repeats" --image_size "${SIZE:-512}"
}
evaluate() {
    for precision in float32 bf16; do
        measure evaluate "evaluate_cpu_$precision" "${sizes[@]}" "${data[@]}" "${timing[@]}" --precision "$precision" \
            --batch_size 8 --images "${IMAGES:-32}" --num_workers 1
    done
}
scaling() {
    local quick=()
    [ "${SIZE:-512}" -ge 512 ] || quick=(--quick)
    measure scaling scaling_cpu_float32 "${sizes[@]}" "${batch[@]}" "${timing[@]}" ${quick[@]+"${quick[@]}"}
}
start() {
    measure start start "${timing[@]}"
}

for table in "${@:-step batch_norm data evaluate scaling start}"; do
    for name in $table; do "$name"; done
done
for name in ${failed[@]+"${failed[@]}"}; do echo "failed: $name" >&2; done
exit "$((${#failed[@]} > 0))"
