#!/usr/bin/env bash
# From a clone to a trained strategy in one command: installs, draws the toy data set, trains a small network on it,
# evaluates, and draws where the strategies cut.
#
# Usage: bash quickstart.sh [cTopk_w | cTopk | cMax | Max | all]      (default cTopk_w)
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$repository"

case "${1:-cTopk_w}" in
    all) strategies="Max cMax cTopk cTopk_w" ;;
    Max | cMax | cTopk | cTopk_w) strategies=${1:-cTopk_w} ;;
    *) echo "error: unknown strategy '$1': choose Max, cMax, cTopk, cTopk_w or all" >&2; exit 2 ;;
esac

. tools/install.sh requirements.txt

toy=toy_voc
python -m tools.make_toy_voc --out "$toy" --images 800 --image_size 96 --seed 0

for strategy in $strategies; do
    case $strategy in
        Max) script=train_classification_with_puzzle_max.py ;;
        *) script=train_classification_with_puzzle_${strategy}_ema.py ;;
    esac
    tag=Toy_$strategy
    echo "== $strategy: training"
    python "$script" --architecture resnet18 --weights none --data_dir "$toy" --train_split Main/train \
        --val_split Main/val --image_size 96 --min_image_size 80 --max_image_size 120 --num_workers 0 \
        --batch_size 8 --lr 0.05 --momentum 0.9 --alpha_schedule_re 0.05 --alpha_re 3.00 --alpha_p 0.5 \
        --max_epoch "${QUICKSTART_EPOCHS:-10}" --tag "$tag"
    echo "== $strategy: evaluation"
    python evaluate_classification.py --tag "$tag" --data_dir "$toy" --split Main/val --num_workers 0
    python inference_classification.py --tag "$tag" --data_dir "$toy" --split Main/val
done

echo
echo "strategy     mAP (chance)    checkpoint; log; history; picture"
for strategy in $strategies; do
    tag=Toy_$strategy
    python - "$strategy" "experiments/evaluation/best_${tag}_Main_val.json" <<'PYTHON'
import json, sys
result = json.load(open(sys.argv[2]))
print(f"{sys.argv[1]:10s} {result['mAP']:6.2f} ({result['chance']:.2f})", end="    ")
PYTHON
    echo "experiments/models/best_$tag.pth; experiments/logs/$tag.txt; experiments/data/$tag.json;" \
        "experiments/pictures/keypoints_best_$tag.png"
done
