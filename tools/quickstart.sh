#!/usr/bin/env bash
# Fresh machine -> .venv -> demo data -> joint pretraining -> fine-tuning on videos and on images, from it and from
# scratch -> test -> pictures.
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

rm -rf "$WORK" && mkdir -p "$WORK"
say 'Make the demo data: real photographs, real videos of a moving camera'
python tools/prepare_dataset.py demo --root "$DEMO"

say 'Pretrain one ViT on images and videos'
run pretrain python tools/train.py configs/demo/pretrain.py --work-dir "$WORK/pretrain"
PRETRAINED=$(ls "$WORK"/pretrain/epoch_*_raw.safetensors)
grep -o 'reconstruction/.*video: [0-9.]*' "$WORK/pretrain.log" | tail -n 1

# The same steps, augmentation and learning rate; only the first weights differ.
for kind in videos images; do
    for start in pretrained scratch; do
        say "Fine-tune on $kind, $start, and test"
        init=model.init_cfg=None
        if [ "$start" = pretrained ]; then init=model.init_cfg.checkpoint="$PRETRAINED"; fi
        name=${kind}_$start
        run "$name" python tools/train.py configs/demo/finetune_$kind.py --work-dir "$WORK/$name" --cfg-options "$init"
        run "test_$name" python tools/test.py configs/demo/finetune_$kind.py "$(ls "$WORK/$name"/epoch_*_raw.safetensors)" \
            --work-dir "$WORK/test" --out "$WORK/$name.json"
    done
done

say 'Draw reconstructions'
run pictures python tools/visualize_reconstruction.py configs/demo/pretrain.py "$PRETRAINED" \
    "$DEMO"/images/val/{astronaut,chelsea,coffee,motorcycle_left,rocket}/00000.jpg \
    "$DEMO"/videos/val/{pan_left/chelsea,zoom_in/coffee,rotate_left/astronaut}_00000.* \
    --out-dir "$WORK/pictures"

say 'Done'
python - "$WORK" <<'PYTHON'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
print(f'{"Accuracy, fine-tuned and tested on":<52}{"pretrained":>12}{"from scratch":>14}')
for kind, words in dict(videos='the motion in a video (8, chance 12.5 %)', images='the photograph of a crop (12, chance 8.3 %)').items():
    scores = [json.loads((work / f'{kind}_{start}.json').read_text())['accuracy/top1'] for start in ('pretrained', 'scratch')]
    print(f'  {words:<50}{scores[0]:>10.1f} %{scores[1]:>12.1f} %')
PYTHON
echo "Pictures    $(find "$WORK/pictures" -type f | sort | tr '\n' ' ')"
echo "Log         $WORK/pretrain.log"
echo "Checkpoint  $PRETRAINED"
