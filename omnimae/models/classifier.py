"""Transfer: a backbone, mean pooling, a norm and a linear head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import pooled_views, without_autocast

from .backbone import ClipClassifier, build_backbone


@MODELS.register_module()
class Classifier(ClipClassifier):
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

    def view_logits(self, clip: Tensor | Mapping[str, Tensor]) -> Tensor:
        """(B, 3, T, H, W) or, with V views, (B, V, 3, T, H, W), or these by modality -> (B, V, classes)."""
        pooled = pooled_views(self.backbone, self.data_preprocessor, clip)
        return without_autocast(self.head, self.dropout(self.norm(pooled)))
