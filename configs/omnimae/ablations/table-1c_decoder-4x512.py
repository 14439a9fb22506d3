"""Table 1c, decoder: 4 blocks, 512 wide.

13.0 M parameters without the mask token and the pixel layer.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1c_decoder-4x512.py 8
Expect: top-1 of 82.7 on IN1K and 68.1 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'

model = dict(head=dict(embed_dim=512))
