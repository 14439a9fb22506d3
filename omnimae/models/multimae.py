"""Masked autoencoding of several aligned modalities: see few patches of some, predict the others (arXiv:2204.01678)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from omnimae.registry import MODELS
from omnimae.structures import Grid, Masks, only_view, token_spans, unknown_mode


class _Encoded(NamedTuple):
    """Patches of the clips, which of them are visible, and the encoder's output."""

    patches: dict[str, Tensor]  # (B, N, P) normalised, or classes
    grids: dict[str, Grid]
    visible: Tensor  # (B, K), over the tokens of all modalities
    latent: Tensor  # (B, K + G, D)


@MODELS.register_module()
class MultiMAE(BaseModel):
    """MultiMAE (arXiv:2204.01678): one encoder of several modalities, a small decoder for each task.

    Masks are over the concatenated tokens of all given modalities, in the order of the backbone's tokenizers. Every
    sample has the same number of visible tokens, but not of each modality. Every token that is not ``visible`` is
    predicted and scored.

    Args:
        backbone: config of a MultiModalViT.
        head: task -> config of a CrossAttentionHead. The task's name is the predicted modality, or the config has it.
        mask_generator: config of a DirichletMasking.
        data_preprocessor: config of a MultiModalPreprocessor.
        uncertainty: weigh the tasks with learned variances (arXiv:1705.07115): exp(-s) * loss + s.
    """

    def __init__(
        self,
        *,
        backbone: dict,
        head: Mapping[str, dict],
        mask_generator: dict,
        data_preprocessor: dict | None = None,
        uncertainty: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(MODELS.build(data_preprocessor or dict(type='MultiModalPreprocessor')), init_cfg)
        if not head:
            raise ValueError('head is empty. Name at least one task: head=dict(rgb=dict(type=...)).')
        self.backbone = MODELS.build(backbone)
        self.data_preprocessor.input_classes = self.backbone.input_classes
        tokenizers = self.backbone.tokenizers.items()
        learned = dict(
            in_dim=self.backbone.embed_dim,
            patch_sizes={name: tokenizer.patch_size for name, tokenizer in tokenizers},
            channels={name: tokenizer.channels for name, tokenizer in tokenizers},
            grids={name: tokenizer.grid for name, tokenizer in tokenizers},
        )
        self.head = nn.ModuleDict(
            {task: MODELS.build({**learned, 'modality': task, **cfg}) for task, cfg in head.items()}
        )
        self.mask_generator = MODELS.build(mask_generator)
        self.mask_generator.check(learned['grids'])  # refuses useless masks early
        self.log_variances = nn.ParameterDict({task: torch.zeros(()) for task in head} if uncertainty else {})

    def forward(
        self,
        clips: Mapping[str, Tensor],
        masks: Masks | None = None,
        mode: str = 'loss',
        shares: Tensor | None = None,
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: ``mode`` 'loss' or 'predict'."""
        if mode == 'loss':
            return self.loss(clips, masks, shares)
        if mode == 'predict':
            return self.predict({name: only_view(clip) for name, clip in clips.items()}, masks)
        raise unknown_mode(mode)

    def begin_step(self, batches: Sequence[dict], sizes: Sequence[int], num_samples: int) -> list[Tensor]:
        """Draw the masks of the step and count, (tasks,), the samples that hide something of each (EpochTrainLoop)."""
        counts = []
        for batch in batches:
            clips = batch['clips']
            grids = self.backbone.grids_of(clips)
            if 'masks' not in batch:
                batch['masks'] = self.draw_masks(clips, self.data_preprocessor.device)
            modalities = [self.head_of(task).modality for task in self._tasks_of(grids)]
            hidden = [self._hidden(modality, batch['masks'].visible, grids) for modality in modalities]
            counts.append(torch.stack([some.any(1).sum() for some in hidden]))
        return counts

    def loss(
        self, clips: Mapping[str, Tensor], masks: Masks | None = None, shares: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Modality -> (B, C, T, H, W) -> {'loss', '<error>_<task>'}; draws masks unless given.

        A task's loss is the mean over the hidden tokens of a sample, then over the samples that hide any. Tasks whose
        modality is not given are left out. ``shares`` are factors for the losses of the other tasks.
        """
        encoded = self._encode(clips, masks)
        tasks = self._tasks_of(encoded.grids)
        if not tasks:
            raise ValueError(
                f'No task of {list(self.head)} predicts one of {list(encoded.grids)}, so there is no loss. Give the '
                'clips of a modality that a task predicts, too.'
            )
        errors = torch.stack([self._mean_error(task, encoded) for task in tasks])
        losses = torch.stack([self._weighted(task, error) for task, error in zip(tasks, errors, strict=True)])
        if shares is not None:
            errors, losses = errors * shares, losses * shares
        # a curve per task; MMEngine would add up every name that contains 'loss'
        curves = {f'{self.head_of(task).error}_{task}': x for task, x in zip(tasks, errors.detach(), strict=True)}
        return {'loss': losses.sum(), **curves}

    def predict(self, clips: Mapping[str, Tensor], masks: Masks | None = None) -> list[dict]:
        """Modality -> (B, C, T, H, W) -> B results: patches, visible, losses, loss, modality.

        ``patches`` has (N, P) for every task, also of modalities that are not given; ``visible`` (K,) counts through
        all given modalities; ``losses`` has the mean error of the hidden tokens for each task whose modality is given
        (NaN if none is hidden) and ``loss`` their sum over those that are numbers; ``modality`` is 'video' if a clip
        has several frames, else 'image'. Patches are in the space of the target.
        """
        encoded = self._encode(clips, masks)
        predictions = {task: self._predict(task, encoded) for task in self.head}
        losses = {}
        for task in self._tasks_of(encoded.grids):
            errors, some = self._errors(task, predictions[task], encoded)
            losses[task] = torch.where(some, errors, torch.nan)
        modality = 'image' if all(clip.shape[2] == 1 for clip in clips.values()) else 'video'
        nothing = encoded.latent.new_zeros(len(encoded.visible), dtype=torch.float32)
        total = torch.stack([nothing, *losses.values()]).nansum(0)
        return [
            dict(
                patches={task: x[row] for task, x in predictions.items()},
                visible=visible,
                losses={task: x[row] for task, x in losses.items()},
                loss=total[row],
                modality=modality,
            )
            for row, visible in enumerate(encoded.visible)
        ]

    def draw_masks(self, clips: Mapping[str, Tensor], device: torch.device | None = None, **_: Any) -> Masks:
        """Masks of clips, on their device or another. Other arguments of ``forward`` are ignored."""
        clip = next(iter(clips.values()))
        return self.mask_generator(len(clip), self.backbone.grids_of(clips), device or clip.device)

    def head_of(self, task: str) -> Any:
        """Return the head of a task, a CrossAttentionHead or one like it."""
        return self.head[task]

    def grid_of(self, modality: str, grids: Mapping[str, Grid]) -> Grid:
        """The grid of a modality. If it is not given, the one that fits the given modalities."""
        if modality in grids:
            return grids[modality]
        given, grid = next(iter(grids.items()))
        own, other = (self.backbone.tokenizers[name].grid for name in (modality, given))
        return Grid(*(max(n * m // k, 1) for n, m, k in zip(own, grid, other, strict=True)))

    def _encode(self, clips: Mapping[str, Tensor], masks: Masks | None) -> _Encoded:
        patches, grids = self.backbone.patchify(self.data_preprocessor.normalize(clips))
        if masks is None:
            masks = self.draw_masks(clips)
        num_tokens = sum(grid.num_tokens for grid in grids.values())
        if masks.visible.shape[1] + masks.decode.shape[1] != num_tokens:
            raise ValueError(
                f'The masks are for {masks.visible.shape[1] + masks.decode.shape[1]} tokens, and {list(grids)} have '
                f'{num_tokens}. Give Masks.from_hidden of all these modalities, one after the other.'
            )
        if masks.scored is not None:
            raise ValueError(
                f'masks.scored leaves out {int((~masks.scored).sum())} tokens, and MultiMAE scores all hidden ones. '
                'Give masks with scored=None.'
            )
        return _Encoded(patches, grids, masks.visible, self.backbone.encode(patches, grids, masks.visible))

    def _predict(self, task: str, encoded: _Encoded) -> Tensor:
        head = self.head_of(task)
        grid = self.grid_of(head.modality, encoded.grids)
        return head(encoded.latent, encoded.visible, encoded.grids, grid)

    def _tasks_of(self, grids: Mapping[str, Grid]) -> list[str]:
        """The tasks whose modality is given."""
        return [task for task in self.head if self.head_of(task).modality in grids]

    def _errors(self, task: str, prediction: Tensor, encoded: _Encoded) -> tuple[Tensor, Tensor]:
        """(B, N, P) -> (B,) mean error over the hidden tokens, 0 where none is hidden; (B,) whether some are."""
        head = self.head_of(task)
        errors = head.errors(prediction, encoded.patches[head.modality])
        hidden = self._hidden(head.modality, encoded.visible, encoded.grids)
        count = hidden.sum(1)
        return (errors * hidden).sum(1) / count.clamp(min=1), count > 0

    @staticmethod
    def _hidden(modality: str, visible: Tensor, grids: Mapping[str, Grid]) -> Tensor:
        """-> (B, N of the modality) bool."""
        num_tokens = sum(grid.num_tokens for grid in grids.values())
        hidden = visible.new_ones(len(visible), num_tokens, dtype=torch.bool).scatter(1, visible, False)
        return hidden[:, token_spans(grids)[modality]]

    def _mean_error(self, task: str, encoded: _Encoded) -> Tensor:
        """-> (): mean over the samples that hide something; 0, with a gradient of 0, if there is none."""
        errors, some = self._errors(task, self._predict(task, encoded), encoded)
        return (errors * some).sum() / some.sum().clamp(min=1)

    def _weighted(self, task: str, error: Tensor) -> Tensor:
        if task not in self.log_variances:
            return error
        variance = self.log_variances[task]
        return torch.where(error == 0, 0, (-variance).exp() * error + variance)
