"""What models share: anybody's backbone, by its config, and the forward pass of classifiers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from omnimae.registry import MODELS
from omnimae.structures import Grid, is_first, require, unknown_mode


def build_backbone(cfg: Mapping[str, Any], asker: str, *members: str, final_norm: bool = True) -> Any:
    """Build an encoder for a model that needs these members of `Backbone`."""
    kind = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    if kind is not None and not final_norm:
        parameters = inspect.signature(kind).parameters
        if 'final_norm' in parameters or any(x.kind is x.VAR_KEYWORD for x in parameters.values()):
            cfg = {**cfg, 'final_norm': False}
    backbone = MODELS.build({**cfg})
    require(backbone, asker, *members)
    if 'grid' in members and not isinstance(backbone.grid, Grid):
        raise ValueError(
            f'{type(backbone).__name__}.grid={backbone.grid!r} is a {type(backbone.grid).__name__}. Make it '
            'omnimae.structures.Grid(t, h, w).'
        )
    return backbone


class ClipClassifier(BaseModel):
    """The forward pass of a classifier."""

    label_smoothing = 0.0
    loss_of_features: Any  # (what `begin_step` put into the batch, labels) -> as `loss`
    view_logits: Any  # (B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W) -> (B, V, classes)

    def forward(
        self,
        clip: Any = None,
        modality: str = 'video',
        labels: Tensor | None = None,
        mode: str = 'loss',
        clips: Mapping[str, Tensor] | None = None,
        features: Any = None,
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: ``mode`` 'loss' or 'predict'. The modality is not used.

        A batch has a clip, ``clips`` by modality, or the features of a probe's ``begin_step``.
        """
        given = clips if clip is None else clip
        if mode == 'loss':
            labels = self.required(labels)
            return self.loss(given, labels) if features is None else self.loss_of_features(features, labels)
        if mode == 'predict':
            logits = self.view_logits(given)
            rows = zip(logits.mean(1), logits.softmax(-1).mean(1), strict=True)
            return [dict(scores=scores, probabilities=probabilities) for scores, probabilities in rows]
        raise unknown_mode(mode)

    def loss(self, clip: Any, labels: Tensor) -> dict[str, Tensor]:
        """(B, 3, T, H, W), labels (B,) or targets (B, classes) -> {'loss': cross-entropy, 'top1': accuracy in percent}.

        The class with the largest share is the label of a mixed target.
        """
        return self.loss_of_logits(self.logits(clip), labels)

    def required(self, labels: Tensor | None) -> Tensor:
        """Refuse a batch without labels."""
        if labels is None:
            raise ValueError(
                f'{type(self).__name__}.loss needs labels, and this batch has none. Give the dataset an ann_file with '
                'labels, or a folder per class.'
            )
        return labels

    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """(B, classes) and labels, see `loss`."""
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        answer = labels if labels.dim() == 1 else labels.argmax(1)
        return {'loss': loss, 'top1': 100 * is_first(logits, answer).float().mean()}

    def predict(self, clip: Any) -> Tensor:
        """(B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W) -> (B, classes): logits averaged over views."""
        return self.view_logits(clip).mean(1)

    def logits(self, clip: Any) -> Tensor:
        """(B, 3, T, H, W), uint8 or normalised -> (B, classes)."""
        return self.view_logits(clip)[:, 0]
