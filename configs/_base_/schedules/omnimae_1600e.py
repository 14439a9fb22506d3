"""OmniMAE pretraining, 1600 epochs, for the models of the paper's Table 2. The warm-up is still 40 epochs (Table 3)."""

_base_ = './omnimae_800e.py'

train_cfg = dict(max_epochs=1600)
