"""Table 1c, decoder: 4 blocks, 384 wide (the base).

7.4 M parameters without the mask token and the pixel layer; the paper prints 7.9 M, 8.0 M is the count with both.

Record: ablation_base.py. Run: bash tools/dist_train.sh configs/omnimae/ablations/table-1c_decoder-4x384.py 8
Expect: top-1 of 82.8 on IN1K and 67.9 on SSv2 after fine-tuning (paper). Ours: not yet run.
"""

_base_ = './ablation_base.py'
