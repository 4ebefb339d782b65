#!/usr/bin/env bash
# Do as much of the study as fits into MINUTES on one GPU: bash benchmarks/gpu_study.sh DATA WEIGHTS MINUTES
# DATA is a devkit folder, or an archive that tools.scale_devkit made of one; WEIGHTS is a file, imagenet or none. Runs and
# tables are written to reproduction/gpu_study (RESULTS), with two archives: results.tar.gz redoes the tables, states.tar
# holds what unfinished runs need. The same command continues, also where RESULTS holds nothing but these two.
# RUNS runs share the GPU: half as many as there are cores, at most 8. NVIDIA's multi-process service (MPS), where it is
# installed, lets them compute at the same time; else they take turns, which is several times slower.
# ARGUMENTS go to every training script, as ARGUMENTS="--image_size 448 --max_image_size 560".
# A trial without a GPU: DEVICE=cpu RUNS=1 ARGUMENTS="--architecture resnet18 --image_size 32 --min_image_size 32
# --max_image_size 48 --max_epoch 1 --amp off" bash benchmarks/gpu_study.sh toy_voc none 5
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$repository/benchmarks/common.sh"
[[ $# -eq 3 && $3 =~ ^[1-9][0-9]*$ ]] || refuse "usage: bash benchmarks/gpu_study.sh DATA WEIGHTS MINUTES"
[ -e "$1" ] || refuse "$1: no such file or folder"
cores=$(nproc) most=$((cores < 16 ? (cores + 1) / 2 : 8))
device=${DEVICE:-cuda:0} runs=${RUNS:-$most} results=$(realpath -m "${RESULTS:-$repository/reproduction/gpu_study}")
[[ $runs =~ ^[1-9][0-9]*$ ]] || refuse "RUNS=$runs: must be a whole number above 0"
data=$(realpath "$1") weights=$2 limit=$((60 * $3))
[ ! -f "$weights" ] || weights=$(realpath "$weights")
cd "$repository"
prepare "$device" benchmarks/requirements.txt cv2,jinja2,matplotlib,sklearn,timm,torchvision,tqdm,yaml

mkdir -p "$results"
if [ ! -d "$results/experiments" ]; then
    for archive in "$results"/{results.tar.gz,states.tar}; do
        [ ! -f "$archive" ] || tar xf "$archive" -C "$results"
    done
fi
if [ -f "$data" ]; then
    unpacked=$results/unpacked
    tar xOf "$data" scaled.json >"$results/.scaled.json" 2>/dev/null ||
        refuse "$data is not an archive of tools.scale_devkit --archive: make one, or give a devkit folder"
    if [ ! -d "$unpacked" ]; then
        mkdir -p "$unpacked.part"
        tar xf "$data" -C "$unpacked.part"
        mv "$unpacked.part" "$unpacked"
    fi
    cmp -s "$results/.scaled.json" "$unpacked/scaled.json" ||
        refuse "$unpacked holds other images than $data: choose another RESULTS"
    data=$unpacked
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > runs ? cores / runs : 1))}
start_mps "$device" || :

# The last minute is for the states, the tables and the archives.
left=$((limit - SECONDS - ${RESERVE:-60}))
left=$((left > 0 ? left : 0))
# shellcheck disable=SC2086 # ARGUMENTS are several words
timeout -k 30 "$((left + 50))" python reproduce_tables.py --preset gpu-study --data_dir "$data" --weights "$weights" \
    --out "$results" --parallel "$runs" --time_limit "$(awk "BEGIN { print $left / 60 }")" \
    -- --device "$device" --num_workers "$((cores / runs))" ${ARGUMENTS:-} &
series=$!
trap 'kill "$series" 2>/dev/null' INT TERM HUP # it saves the states; the archives are still written
status=0
while kill -0 "$series" 2>/dev/null; do
    wait "$series" && status=0 || status=$?
done

cd "$results"
pack() { # name of the archive, options of tar; the names of its files are read
    tar "${@:2}" -cf "$1.part" -T -
    mv "$1.part" "$1"
    echo "written: $results/$1, $(du -h "$1" | cut -f1)"
}
if [ -d experiments ]; then
    mkdir -p tables
    find experiments tables -type f -not -path '*/states/*' -not -path '*/models/*' | sort | pack results.tar.gz -z
    for config in experiments/data/*.config.json; do
        tag=$(basename "$config" .config.json)
        compgen -G "experiments/evaluation/best_${tag}_*.json" >/dev/null ||
            find experiments -path "*/states/$tag.pth" -o -path "*/models/$tag.*" -o -path "*/models/????_$tag.*"
    done | pack states.tar
fi
echo "== $SECONDS seconds"
exit "$status"
