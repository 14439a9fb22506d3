"""Transfer: a backbone, mean pooling, a norm and a linear head."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import is_first, pooled_views, unknown_mode, without_autocast

from .backbone import build_backbone

Clip = Tensor | Mapping[str, Tensor]


@MODELS.register_module()
class Classifier(BaseModel):
    """Classify images or videos with a pretrained backbone (arXiv:2206.08356, section 4 and B.2).

    As in the release, tokens are averaged *before* the final norm. So the norm starts fresh: the pretrained one is of
    single tokens. MAE-ST starts with the pretrained one. A MultiModalViT classifies several modalities together, or
    RGB alone.

    Args:
        backbone: config of the encoder. Its own final norm is switched off.
        num_classes: size of the linear head.
        label_smoothing: of the cross-entropy. s turns a target t into (1 - s) t + s / num_classes, before and after
            mixing alike.
        head_init_std: std of the head's truncated-normal weights (the release: 2e-5 on IN1K, 0.01 on SSv2). None means
            Xavier-uniform, as in MultiMAE.
        pretrained_norm: start with the final norm of a pretraining checkpoint, as MAE-ST does.
        dropout: share of the features that training drops before the head.
        data_preprocessor: config of the ClipPreprocessor, with erasing and mixing of training batches, or of a
            MultiModalPreprocessor. The model sets its ``num_classes``.
    """

    feature_norm = 'pooled'  # FrozenBackbone.norm that gives the same features

    def __init__(
        self,
        *,
        backbone: dict,
        num_classes: int,
        label_smoothing: float = 0.0,
        head_init_std: float | None = 2e-5,
        pretrained_norm: bool = False,
        dropout: float = 0.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        preprocessor = dict(data_preprocessor or dict(type='ClipPreprocessor'), num_classes=num_classes)
        super().__init__(MODELS.build(preprocessor), init_cfg)
        self.backbone = build_backbone(backbone, 'Classifier', 'embed_dim', 'pooled', final_norm=False)
        self.data_preprocessor.input_classes = getattr(self.backbone, 'input_classes', {})
        self.norm = nn.LayerNorm(self.backbone.embed_dim, eps=1e-6)
        self.pretrained_norm = pretrained_norm
        self.head = nn.Linear(self.backbone.embed_dim, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.label_smoothing = label_smoothing
        if head_init_std is None:
            nn.init.xavier_uniform_(self.head.weight)
        else:
            nn.init.trunc_normal_(self.head.weight, std=head_init_std)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        clip: Tensor | None = None,
        modality: str = 'video',
        labels: Tensor | None = None,
        mode: str = 'loss',
        clips: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: ``mode`` 'loss' or 'predict'. The modality is not used.

        The preprocessor gives a clip, or ``clips`` by modality. Every method takes either.
        """
        given: Clip = clips if clip is None else clip  # type: ignore[assignment]  # a batch has one of the two
        if mode == 'loss':
            if labels is None:
                raise ValueError(
                    'Classifier.loss needs labels, and this batch has none. Give the dataset an ann_file with labels, '
                    'or a folder per class.'
                )
            return self.loss(given, labels)
        if mode == 'predict':
            logits = self.view_logits(given)
            rows = zip(logits.mean(1), logits.softmax(-1).mean(1), strict=True)
            return [dict(scores=scores, probabilities=probabilities) for scores, probabilities in rows]
        raise unknown_mode(mode)

    def loss(self, clip: Clip, labels: Tensor) -> dict[str, Tensor]:
        """(B, 3, T, H, W), labels (B,) or targets (B, classes) -> {'loss': cross-entropy, 'top1': accuracy in percent}.

        The class with the largest share is the label of a mixed target.
        """
        logits = self.logits(clip)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        answer = labels if labels.dim() == 1 else labels.argmax(1)
        return {'loss': loss, 'top1': 100 * is_first(logits, answer).float().mean()}

    def predict(self, clip: Clip) -> Tensor:
        """(B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W) -> (B, classes): logits averaged over views."""
        return self.view_logits(clip).mean(1)

    def view_logits(self, clip: Clip) -> Tensor:
        """(B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W) -> (B, V, classes)."""
        pooled = pooled_views(self.backbone, self.data_preprocessor, clip)
        return without_autocast(self.head, self.dropout(self.norm(pooled)))

    def logits(self, clip: Clip) -> Tensor:
        """(B, 3, T, H, W), uint8 or normalised -> (B, classes)."""
        return self.view_logits(clip)[:, 0]
