"""Frozen backbones: their features, and a linear classifier or an attentive one on top of them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _NormBase

from omnimae.registry import MODELS
from omnimae.structures import pooled_views, without_autocast

from .backbone import ClipClassifier, build_backbone


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

    reads = 'pooled'  # the member of `Backbone` that gives the features

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
        asked = 'embed_dim', self.reads
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
        return self.norm(pooled_views(self.backbone, self.data_preprocessor, clip, self.reads))


class FeatureNorm(_NormBase):
    """Batch normalisation of features, without scale and shift, over the batches of all ranks.

    In MAE (arXiv:2111.06377, appendix A) each rank uses its own batch, and the averages are those of rank 0. Here the
    result is the same for any number of ranks. It is no ``nn.BatchNorm1d``, so that code which replaces or refuses
    per-rank norms leaves it alone.
    """

    # None in some batch norms, never in this one
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, num_features: int):
        super().__init__(num_features, eps=1e-6, affine=False)

    def forward(self, x: Tensor, num_samples: int | None = None) -> Tensor:
        """(B, D) -> (B, D). A single sample has no variance and is normalised as in evaluation.

        ``num_samples``: of all ranks together; by default each has B.
        """
        num_samples = num_samples or x.shape[0] * get_world_size()
        if not self.training or num_samples == 1:
            return F.batch_norm(x.float(), self.running_mean, self.running_var, eps=self.eps)
        x = x.float()
        mean = _sum_over_ranks(x.sum(0)) / num_samples
        variance = _sum_over_ranks((x - mean).square().sum(0)) / num_samples
        unbiased = variance * num_samples / (num_samples - 1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(unbiased.detach(), self.momentum)
        self.num_batches_tracked += 1
        return (x - mean) * (variance + self.eps).rsqrt()


def _sum_over_ranks(x: Tensor) -> Tensor:
    return all_reduce(x) if get_world_size() > 1 else x  # with a gradient


@MODELS.register_module()
class LinearProbe(ClipClassifier, FrozenBackbone):
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

    def begin_step(self, batches: Sequence[dict], sizes: Sequence[int], num_samples: int) -> None:
        """Replace the clips by their features, normalised over the whole step: one update of the averages for each."""
        features = [self.features(self.data_preprocessor(batch, training=True)['clip']) for batch in batches]
        counted = torch.cat([x[:size] for x, size in zip(features, sizes, strict=True)])
        normalised = self.head[0](counted, num_samples).split(list(sizes))
        for batch, raw, x, size in zip(batches, features, normalised, sizes, strict=True):
            batch['features'] = x if size else raw  # raw ones do not count
            del batch['clips']

    def loss_of_features(self, features: Any, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of normalised features (B, D)."""
        return self.loss_of_logits(without_autocast(self.head[-1], features), labels)

    def view_logits(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) or (B, V, 3, T, H, W) -> (B, V, classes)."""
        features = self.view_features(clip)
        return without_autocast(self.head, features.flatten(0, 1)).unflatten(0, features.shape[:2])


class QueryPooling(nn.Module):
    """Learned queries attend to tokens and average their values: efficient probing (arXiv:2506.10178).

    Keys are the tokens themselves. The values have as many parts as there are queries. Query m averages part m.

    Args:
        dim: D, of the tokens.
        num_queries: M, a divisor of D.
    """

    def __init__(self, dim: int, num_queries: int):
        super().__init__()
        if dim % num_queries:
            raise ValueError(
                f'num_queries={num_queries} does not divide the {dim} channels of the tokens. Choose a divisor, such '
                f'as {math.gcd(dim, 32)}.'
            )
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim))
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D)."""
        # ONNX has no scaled_dot_product_attention of three dimensions
        averages = (self.queries @ x.transpose(1, 2) * x.shape[2] ** -0.5).softmax(2) @ x
        # the values are linear: averages of them are values of the averages, which are N / M times fewer
        parts = self.value.weight.unflatten(0, (len(self.queries), -1))
        return torch.einsum('bmd,mpd->bmp', averages, parts).flatten(1)


@MODELS.register_module()
class AttentiveProbe(LinearProbe):
    """A frozen backbone and efficient probing: queries that pool its tokens, batch norm and a linear layer.

    The mean over tokens hides much of what a masked model knows. Queries find it (arXiv:2506.10178). Initial values are
    those of the released code (github.com/billpsomas/efficient-probing). A class token is not read.

    Args:
        backbone: config of an encoder with ``tokens``.
        num_classes: size of the linear layer.
        num_queries: a divisor of the width of the tokens.
        norm: of the tokens, as in `FrozenBackbone`; 'pooled' normalises each of them. None reads them as the released
            code does, before the final norm.
        data_preprocessor: config of the ClipPreprocessor.
    """

    reads = 'tokens'

    def __init__(
        self,
        *,
        backbone: dict,
        num_classes: int,
        num_queries: int = 32,
        norm: str | None = 'token',
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(
            backbone=backbone,
            num_classes=num_classes,
            norm=norm,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        dim = self.backbone.embed_dim
        parts: OrderedDict[str, nn.Module] = OrderedDict(pool=QueryPooling(dim, num_queries))
        parts['0'], parts['1'] = FeatureNorm(dim), nn.Linear(dim, num_classes)  # keys as of a LinearProbe
        self.head = nn.Sequential(parts)

    def begin_step(self, batches: Sequence[dict], sizes: Sequence[int], num_samples: int) -> None:
        """Replace the clips by tokens, their pooled features normalised over the whole step, and the loss's gradient.

        The gradient is that of the features before the norm. It goes through the statistics of the step, which no
        micro-batch sees alone.
        """
        given = [self.data_preprocessor(batch, training=True) for batch in batches]
        tokens = [self.features(one['clip']) for one in given]
        labels = torch.cat([self.required(one.get('labels'))[:size] for one, size in zip(given, sizes, strict=True)])
        raw = [without_autocast(self.head[0], x) for x in tokens]
        pooled = torch.cat([x[:size] for x, size in zip(raw, sizes, strict=True)]).requires_grad_()
        with torch.enable_grad():
            normalised = self.head[1](pooled, num_samples)
            logits = without_autocast(self.head[-1], normalised)
            [gradient] = torch.autograd.grad(F.cross_entropy(logits, labels, reduction='sum'), pooled)
        parts = zip(normalised.detach().split(list(sizes)), gradient.split(list(sizes)), strict=True)
        for batch, x, uncounted, size, (y, slope) in zip(batches, tokens, raw, sizes, parts, strict=True):
            batch['features'] = (x, y, slope / size) if size else (x, uncounted, torch.zeros_like(uncounted))
            del batch['clips']

    def loss_of_features(self, features: Any, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of tokens, their normalised pooled features and its gradient, see `begin_step`."""
        tokens, normalised, gradient = features
        pooled = without_autocast(self.head[0], tokens)
        passed = ((pooled - pooled.detach()) * gradient).sum()  # 0, with this gradient
        losses = super().loss_of_features(normalised, labels)
        return {**losses, 'loss': losses['loss'] + passed}
