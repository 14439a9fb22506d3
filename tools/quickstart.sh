#!/usr/bin/env bash
# Fresh machine -> .venv -> demo data -> joint pretraining -> fine-tuning, from it and from scratch -> test -> pictures.
# A second run makes everything anew but the environment and the data. WORK and OMNIMAE_DATA move what it writes.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/setup_venv.sh demo

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

rm -rf "$WORK" && mkdir -p "$WORK"
say 'Make the demo data: real photographs, real videos of a moving camera'
python tools/prepare_dataset.py demo --root "$DEMO"

say 'Pretrain one ViT on images and videos'
run pretrain python tools/train.py configs/demo/pretrain.py --work-dir "$WORK/pretrain"
PRETRAINED=$(ls "$WORK"/pretrain/epoch_*_raw.safetensors)
grep -o 'reconstruction/.*video: [0-9.]*' "$WORK/pretrain.log" | tail -n 1

# The same steps, augmentation and learning rate; only the first weights differ.
say 'Fine-tune on the motion of videos, from pretraining'
run pretrained python tools/train.py configs/demo/finetune_videos.py --work-dir "$WORK/pretrained" \
    --cfg-options model.init_cfg.checkpoint="$PRETRAINED"
say 'Fine-tune on the motion of videos, from scratch'
run scratch python tools/train.py configs/demo/finetune_videos.py --work-dir "$WORK/scratch" \
    --cfg-options model.init_cfg=None

say 'Test both'
for start in pretrained scratch; do
    run "test_$start" python tools/test.py configs/demo/finetune_videos.py "$(ls "$WORK/$start"/epoch_*_raw.safetensors)" \
        --work-dir "$WORK/test" --out "$WORK/$start.json"
done

say 'Draw reconstructions'
run pictures python tools/visualize_reconstruction.py configs/demo/pretrain.py "$PRETRAINED" \
    "$(ls "$DEMO"/images/val/chelsea/*.jpg | head -n 1)" "$(ls "$DEMO"/videos/val/pan_left/chelsea_* | head -n 1)" \
    --out-dir "$WORK/pictures"

say 'Done'
python - "$WORK" <<'PYTHON'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
print('Accuracy on the eight motions of videos never seen (chance 12.5 %):')
for start in ('pretrained', 'scratch'):
    print(f'  {start:<12}{json.loads((work / f"{start}.json").read_text())["accuracy/top1"]:5.1f} %')
PYTHON
echo "Pictures    $(ls "$WORK"/pictures/* | tr '\n' ' ')"
echo "Log         $WORK/pretrain.log"
echo "Checkpoint  $PRETRAINED"
