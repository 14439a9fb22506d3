#!/usr/bin/env bash
# Fresh machine -> .venv -> demo data -> joint pretraining -> pictures -> fine-tuning on images and on videos, from it
# and from scratch -> accuracy.
# A second run makes everything anew but the environment and the data. WORK and OMNIMAE_DATA move what it writes.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup_venv.sh demo,decord,openmmlab

export OMNIMAE_DATA=${OMNIMAE_DATA:-data}
DEMO=$OMNIMAE_DATA/demo
WORK=${WORK:-work_dirs/quickstart}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # so small a model gains nothing from threads; the loader's workers do
SECONDS=0

say() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

# run NAME COMMAND...: the output goes to a log; of a failure the end is shown.
run() {
    local log="$WORK/$1.log"
    if ! "${@:2}" > "$log" 2>&1; then
        tail -n 30 "$log" >&2
        echo "Failed: ${*:2}; the whole output is in $log" >&2
        exit 1
    fi
}

# What runs in the background does not get Ctrl-C.
trap 'kill $(jobs -p) 2>/dev/null
echo "quickstart.sh: stopped by Ctrl-C. Environment and finished data are kept. The same command starts anew." >&2
exit 130' INT

rm -rf "$WORK" && mkdir -p "$WORK"
say 'Make the demo data: real photographs, real videos of a moving camera'
python tools/prepare_dataset.py demo --root "$DEMO"

say 'Pretrain one ViT on images and videos'
run pretrain python tools/train.py configs/demo/pretrain.py --work-dir "$WORK/pretrain"
PRETRAINED=$(ls "$WORK"/pretrain/epoch_*_raw.safetensors)
grep -o 'reconstruction/.*video: [0-9.]*' "$WORK/pretrain.log" | tail -n 1

say 'Draw what it makes of held-out images and videos, 75 % and 90 % hidden'
run pictures python tools/visualize_reconstruction.py "$WORK/pretrain" \
    "$DEMO"/whole/val/{astronaut_00003,camera_00002,chelsea_00001,coffee_00001,motorcycle_left_00000,rocket_00000}.jpg \
    "$DEMO"/videos/val/{astronaut_top_left,camera_top_left,motorcycle_left_bottom_right}/00003_*.* \
    --out-dir "$WORK/pictures"

# The same steps, augmentation and learning rate; only the first weights differ. The two run side by side.
for kind in images videos; do
    say "Fine-tune on $kind with 8 labels a class: from it, and from scratch"
    pids=() failed=0
    for start in pretrained scratch; do
        init=model.init_cfg=None
        if [ "$start" = pretrained ]; then init=model.init_cfg.checkpoint="$PRETRAINED"; fi
        name=${kind}_$start
        run "$name" python tools/train.py configs/demo/finetune_$kind.py --work-dir "$WORK/$name" --cfg-options "$init" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done  # neither goes on alone
    [ "$failed" = 0 ]
done

say 'Done'
python - "$WORK" <<'PYTHON'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
print(f'{"Top-1 on held-out files, 24 classes (chance 4.2 %)":<52}{"pretrained":>12}{"from scratch":>14}')
for kind in ('images', 'videos'):
    scores = []
    for start in ('pretrained', 'scratch'):
        [log] = (work / f'{kind}_{start}').glob('*/vis_data/scalars.json')
        scores.append([row['accuracy/top1'] for row in map(json.loads, log.open()) if 'accuracy/top1' in row][-1])
    print(f'  {kind + ", from 8 labels a class":<50}{scores[0]:>10.1f} %{scores[1]:>12.1f} %')
PYTHON
echo "Pictures    $(find "$WORK/pictures" -type f | sort | tr '\n' ' ')"
echo "Log         $WORK/pretrain.log"
echo "Checkpoint  $PRETRAINED"
