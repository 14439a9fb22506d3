"""Table 1c, decoder: 8 blocks, 384 wide.

14.5 M parameters without the mask token and the pixel layer.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1c_decoder-8x384.py 8
Expect: top-1 of 82.8 on IN1K and 68.0 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(head=dict(depth=8))
