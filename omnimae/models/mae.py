"""Masked autoencoding of images and videos: mask, encode what is visible, predict what is hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import Grid, Head, Masks, gather_tokens, only_view, require, unknown_mode

from .backbone import build_backbone


class _Split(NamedTuple):
    """A clip cut into patches: what the encoder reads, what the decoder has to predict."""

    grid: Grid
    masks: Masks
    visible: Tensor  # (B, K, P) normalised
    pixels: Tensor  # (B, M, P) in 0..1


@MODELS.register_module()
class MaskedAutoencoder(BaseModel):
    """OmniMAE (arXiv:2206.08356): one encoder for images and videos, trained to predict hidden patches.

    Args:
        backbone: config of the encoder.
        head: config of the decoder with its loss, or one per modality, ``dict(image=..., video=...)`` (Table 1c). A
            batch has one modality, so DDP then looks for unused parameters.
        mask_generator: one config per modality, ``dict(image=..., video=...)``.
        decode_ratio: share of the hidden tokens that a training step predicts, drawn for each sample (CrossMAE,
            arXiv:2401.14391). `predict` predicts all.
        data_preprocessor: config of the ClipPreprocessor.
    """

    head: Any  # a `Head`, or a ModuleDict of them

    def __init__(
        self,
        *,
        backbone: dict,
        head: dict,
        mask_generator: Mapping[str, dict],
        decode_ratio: float = 1.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(MODELS.build(data_preprocessor or dict(type='ClipPreprocessor')), init_cfg)
        if not 0 < decode_ratio <= 1:
            raise ValueError(f'MaskedAutoencoder: decode_ratio={decode_ratio} must lie above 0, and be 1 at most.')
        self.decode_ratio = decode_ratio
        configs = [head] if 'type' in head else head.values()
        asked = 'embed_dim', 'patch_size', 'grid', 'num_extra_tokens', 'patchify', 'encode'
        # decoders that read layers do not train the norm after the last one
        final_norm = any(cfg.get('layers') is None for cfg in configs)
        self.backbone = build_backbone(backbone, 'MaskedAutoencoder', *asked, final_norm=final_norm)
        # the head learns these from the backbone; merged here, since a ConfigDict would take the grid apart
        learned = dict(
            in_dim=self.backbone.embed_dim,
            patch_size=self.backbone.patch_size,
            grid=self.backbone.grid,
            num_extra_tokens=self.backbone.num_extra_tokens,
        )
        if 'type' in head:
            self.head = MODELS.build({**learned, **head})
        else:
            self.head = nn.ModuleDict({key: MODELS.build({**learned, **cfg}) for key, cfg in head.items()})
        for modality in mask_generator:
            require(self.head_of(modality), 'MaskedAutoencoder', 'loss', 'predicted_pixels', 'errors')
            self._check_layers(self.head_of(modality))
        self.mask_generator = {key: MODELS.build(cfg) for key, cfg in mask_generator.items()}
        for modality, generator in self.mask_generator.items():
            grid = self.backbone.grid
            generator.num_hidden(grid._replace(t=1) if modality == 'image' else grid)  # refuses useless masks early

    def forward(
        self,
        clip: Tensor,
        modality: str = 'video',
        masks: Masks | None = None,
        labels: Tensor | None = None,
        mode: str = 'loss',
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: ``mode`` 'loss' or 'predict'. Labels are not used."""
        if mode == 'loss':
            return self.loss(clip, modality, masks)
        if mode == 'predict':
            return self.predict(only_view(clip), modality, masks)
        raise unknown_mode(mode)

    def loss(self, clip: Tensor, modality: str = 'video', masks: Masks | None = None) -> dict[str, Tensor]:
        """(B, 3, T, H, W), uint8 or normalised -> {'loss', 'mse_<modality>'}; draws masks unless given."""
        split = self._split(clip, modality, self.draw_masks(clip, modality) if masks is None else masks)
        head = self.head_of(modality)
        losses = head.loss(self._encode(split, head), split.masks, split.grid, split.pixels)
        # a curve per modality; MMEngine adds up every name that contains 'loss'
        return {**losses, f'mse_{modality}': losses['loss'].detach()}

    def predict(self, clip: Tensor, modality: str = 'video', masks: Masks | None = None) -> list[dict]:
        """(B, 3, T, H, W), uint8 or normalised -> B results: patches (M, P), decode (M,), visible (K,), modality, loss.

        The patches are in the space of the target (normalised unless the head predicts plain pixels).
        """
        head = self.head_of(modality)
        split = self._split(clip, modality, self._all_masks(clip, modality) if masks is None else masks)
        patches = head(self._encode(split, head), split.masks, split.grid)
        pixels = head.predicted_pixels(split.pixels, split.masks.decode, split.grid)
        errors, scored = head.errors(patches, pixels), split.masks.scored
        losses = errors.mean(1) if scored is None else (errors * scored).sum(1) / scored.sum(1).clamp(min=1)
        rows = zip(patches, split.masks.decode, split.masks.visible, losses, strict=True)
        return [
            dict(patches=p, decode=decode, visible=visible, modality=modality, loss=loss)
            for p, decode, visible, loss in rows
        ]

    def begin_step(self, batches: Sequence[dict], sizes: Sequence[int], num_samples: int) -> list[Tensor] | None:
        """Count the scored tokens of each micro-batch, where samples differ in it (EpochTrainLoop).

        Then the masks of the whole step are drawn here.
        """
        generator = self._mask_generator(batches[0]['modality'])
        if getattr(generator, 'scores_all', False) and not any('masks' in batch for batch in batches):
            return None
        counts = []
        for batch in batches:
            if 'masks' not in batch:
                clip, modality = batch['clips']['rgb'], batch['modality']
                batch['masks'] = self.draw_masks(clip, modality, self.data_preprocessor.device)
            masks = batch['masks']
            counts.append((torch.ones_like(masks.decode) if masks.scored is None else masks.scored).sum())
        return counts

    def draw_masks(self, clip: Tensor, modality: str = 'video', device: torch.device | None = None, **_: Any) -> Masks:
        """Masks for the loss of a clip (B, C, T, H, W), on its device or another. They decode ``decode_ratio``.

        Other arguments of ``forward`` are ignored.
        """
        masks = self._all_masks(clip, modality, device)
        return masks if self.decode_ratio == 1 else masks.part(self.decode_ratio)

    def head_of(self, modality: str) -> Head:
        """Return the `Head` that decodes this modality: the shared one, or its own."""
        heads = self.head
        return heads[modality] if isinstance(self.head, nn.ModuleDict) else heads

    def _all_masks(self, clip: Tensor, modality: str, device: torch.device | None = None) -> Masks:
        grid = Grid.of(clip.shape[2:], self.backbone.patch_size)
        return self._mask_generator(modality)(len(clip), grid, device or clip.device)

    def _check_layers(self, head: Any) -> None:
        layers = getattr(head, 'layers', None)
        if layers is None:
            return
        require(self.backbone, f'{type(head).__name__} with layers', 'encode_layers', 'num_layers')
        last = self.backbone.num_layers
        if not layers or list(layers) != sorted({*layers}) or layers[0] < 0 or layers[-1] != last:
            raise ValueError(
                f'{type(head).__name__}: layers={[*layers]} must ascend, from 0 (the embedded tokens) at least to '
                f'{last}, the last of the backbone: nothing would train layers after it. All are range({last + 1}).'
            )

    def _encode(self, split: _Split, head: Any) -> Tensor:
        """-> (B, extra + K, D), or (layers, B, extra + K, D) for a head that reads layers."""
        layers = getattr(head, 'layers', None)
        if layers is None:
            return self.backbone.encode(split.visible, split.grid, split.masks.visible)
        return self.backbone.encode_layers(split.visible, split.grid, layers, split.masks.visible)

    def _split(self, clip: Tensor, modality: str, masks: Masks) -> _Split:
        patches, grid = self.backbone.patchify(clip)
        visible = self.data_preprocessor.normalize_patches(gather_tokens(patches, masks.visible))
        pixels = self.data_preprocessor.pixels_of_patches(gather_tokens(patches, masks.decode))
        return _Split(grid, masks, visible, pixels)

    def _mask_generator(self, modality: str):
        if modality not in self.mask_generator:
            raise ValueError(
                f'No mask generator for modality={modality!r}; the model has {sorted(self.mask_generator)}. Give it '
                f'samples of these alone, or add mask_generator.{modality} to the config.'
            )
        return self.mask_generator[modality]
