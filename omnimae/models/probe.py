"""Frozen backbones: their features, and a linear classifier on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from omnimae.registry import MODELS
from omnimae.structures import is_first, pooled_views, unknown_mode, without_autocast

from .backbone import build_backbone


@MODELS.register_module()
class FrozenBackbone(BaseModel):
    """Features of images and clips of a frozen backbone, for k-NN and for files of features.

    It has no gradient and no DropPath, also in training mode.

    Args:
        backbone: config of the encoder.
        norm: 'token' normalises each token by the backbone's final norm, if it has one, then averages. Use it after
            pretraining (the release's ``last_patch_avg``). 'pooled' averages, then normalises by the checkpoint's norm.
            Use it for the features of a fine-tuned Classifier. None only averages, for those of a DensePredictor.
        data_preprocessor: config of the ClipPreprocessor.
    """

    def __init__(
        self,
        *,
        backbone: dict,
        norm: str | None = 'token',
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(MODELS.build(data_preprocessor or dict(type='ClipPreprocessor')), init_cfg)
        if norm not in ('token', 'pooled', None):
            raise ValueError(f"norm={norm!r} is unknown. Choose 'token', 'pooled' or None.")
        asked = 'embed_dim', 'pooled'
        self.backbone = build_backbone(backbone, type(self).__name__, *asked, final_norm=norm == 'token')
        self.norm = nn.LayerNorm(self.backbone.embed_dim, eps=1e-6) if norm == 'pooled' else nn.Identity()
        self.backbone.eval()

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Set the mode of all but the backbone, which stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(
        self, clip: Tensor, modality: str = 'video', labels: Tensor | None = None, mode: str = 'predict'
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: a list with one ``dict(features=(D,))`` per sample. Modality and labels are not used."""
        if mode != 'predict':
            raise ValueError(f"mode={mode!r}: a FrozenBackbone has nothing to train. Use 'predict', or a LinearProbe.")
        return [dict(features=features) for features in self.features(clip)]

    @torch.no_grad()
    def features(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W) -> (B, D): averaged over views."""
        return self.view_features(clip).mean(1)

    @torch.no_grad()
    def view_features(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) or (B, V, 3, T, H, W) -> (B, V, D)."""
        return self.norm(pooled_views(self.backbone, self.data_preprocessor, clip))


class FeatureNorm(_NormBase):
    """Batch normalisation of features, without scale and shift, over the batches of all ranks.

    In MAE (arXiv:2111.06377, appendix A) each rank uses its own batch, and the averages are those of rank 0. Features
    have no gradient, so statistics of all ranks cost two sums. The result is the same for any number of ranks. It is no
    ``nn.BatchNorm1d``, so that code which replaces or refuses per-rank norms leaves it alone.
    """

    # None in some batch norms, never in this one
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int):
        super().__init__(num_features, eps=1e-6, affine=False)

    def forward(self, x: Tensor, num_samples: int | None = None) -> Tensor:
        """(B, D) without gradient -> (B, D). A single sample has no variance and is normalised as in evaluation.

        ``num_samples``: of all ranks together; by default each has B.
        """
        num_samples = num_samples or len(x) * get_world_size()
        if not self.training or num_samples == 1:
            return F.batch_norm(x.float(), self.running_mean, self.running_var, eps=self.eps)
        x = x.float()
        mean = x.sum(0) / num_samples
        all_reduce(mean)
        variance = (x - mean).square().sum(0) / num_samples
        all_reduce(variance)
        unbiased = variance * num_samples / (num_samples - 1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1
        return (x - mean) * (variance + self.eps).rsqrt()


@MODELS.register_module()
class LinearProbe(FrozenBackbone):
    """A frozen backbone, batch norm without affine and a linear layer: MAE's probe (arXiv:2111.06377, appendix A).

    MAE's reads the class token: ``backbone=dict(cls_token=True, pool='cls')``.

    Args:
        backbone: config of the encoder.
        num_classes: size of the linear layer.
        norm: of the features, see `FrozenBackbone`: 'token' for pretrained backbones.
        head_init_std: of the linear layer's truncated-normal weights.
        data_preprocessor: config of the ClipPreprocessor.
    """

    def __init__(
        self,
        *,
        backbone: dict,
        num_classes: int,
        norm: str | None = 'token',
        head_init_std: float = 0.01,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        preprocessor = dict(data_preprocessor or dict(type='ClipPreprocessor'), num_classes=num_classes)
        super().__init__(backbone=backbone, norm=norm, data_preprocessor=preprocessor, init_cfg=init_cfg)
        # not in FrozenBackbone: DDP refuses a model without trained parameters, in testing too
        for part in (self.backbone, self.norm):
            part.requires_grad_(False)
        dim = self.backbone.embed_dim
        linear = nn.Linear(dim, num_classes)
        # keys below ``head.``, so that the backbone of a probe's checkpoint loads anywhere
        self.head = nn.Sequential(FeatureNorm(dim), linear)
        nn.init.trunc_normal_(linear.weight, std=head_init_std)
        nn.init.zeros_(linear.bias)

    def forward(
        self,
        clip: Any = None,
        modality: str = 'video',
        labels: Tensor | None = None,
        mode: str = 'loss',
        features: Tensor | None = None,
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: ``mode`` 'loss' or 'predict', of clips or of the features of `begin_step`.

        The modality is not used.
        """
        if mode == 'loss':
            if labels is None:
                raise ValueError('LinearProbe.loss needs labels, and this batch has none. Give the dataset labels.')
            if features is None:
                return self.loss(clip, labels)
            return self._loss(without_autocast(self.head[1], features), labels)
        if mode == 'predict':
            logits = self.logits(clip)
            rows = zip(logits.mean(1), logits.softmax(-1).mean(1), strict=True)
            return [dict(scores=scores, probabilities=probabilities) for scores, probabilities in rows]
        raise unknown_mode(mode)

    def begin_step(self, batches: Sequence[dict], sizes: Sequence[int], num_samples: int) -> None:
        """Replace the clips by their features, normalised over the whole step: one update of the averages for each."""
        features = [self.features(self.data_preprocessor(batch, training=True)['clip']) for batch in batches]
        counted = torch.cat([x[:size] for x, size in zip(features, sizes, strict=True)])
        normalised = self.head[0](counted, num_samples).split(list(sizes))
        for batch, raw, x, size in zip(batches, features, normalised, sizes, strict=True):
            batch['features'] = x if size else raw  # raw ones do not count
            del batch['clips']

    def loss(self, clip: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """(B, 3, T, H, W), (B,) -> {'loss': cross-entropy, 'top1': accuracy in percent}."""
        return self._loss(self.logits(clip).squeeze(1), labels)

    def _loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {'loss': F.cross_entropy(logits, labels), 'top1': 100 * is_first(logits, labels).float().mean()}

    def predict(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W) -> (B, classes): logits averaged over views."""
        return self.logits(clip).mean(1)

    def logits(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) or (B, V, 3, T, H, W) -> (B, V, classes)."""
        features = self.view_features(clip)
        return without_autocast(self.head, features.flatten(0, 1)).unflatten(0, features.shape[:2])
