"""Transfer to dense prediction: a backbone, a head for maps, and a task that defines the loss.

MultiMAE (arXiv:2204.01678), sections 4.2 and 4.3. Default values are those of its release.

Legend: B batch, D width, C channels of the prediction, (H, W) pixels; clips (B, C, T, H, W), here T=1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.model import BaseModel
from torch import Tensor

from omnimae.registry import MODELS
from omnimae.structures import UNKNOWN_CLASS, is_first, only_view, unknown_mode

from .backbone import build_backbone


@MODELS.register_module()
class SegmentationTask:
    """Semantic segmentation: cross-entropy over the pixels that have a class.

    Args:
        num_classes: at most 255.
    """

    needs_largest_error = False

    def __init__(self, *, num_classes: int):
        if num_classes > UNKNOWN_CLASS:
            raise ValueError(f'num_classes={num_classes} is too many for maps of 8 bits. Merge some, to at most 255.')
        self.num_classes = self.out_channels = num_classes

    def known(self, target: Tensor) -> Tensor:
        """-> bool of the same shape: pixels that have a class."""
        return target != UNKNOWN_CLASS

    def loss(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, classes, H, W), (B, 1, T=1, H, W) uint8 -> {'loss', 'top1': pixel accuracy in percent}."""
        target = target[:, 0, 0].long()
        known = self.known(target)
        count = known.sum().clamp(min=1)  # a crop of padding alone
        loss = F.cross_entropy(output.float(), target, ignore_index=UNKNOWN_CLASS, reduction='sum') / count
        right = is_first(output, target.masked_fill(~known, 0)) & known
        return {'loss': loss, 'top1': 100 * right.sum() / count}

    def results(self, output: Tensor) -> list[dict]:
        """(B, classes, H, W) -> B times dict(classes=(H, W) uint8), 255 where no single class has the largest score."""
        classes = output.argmax(1)
        classes = classes.masked_fill(~is_first(output, classes), UNKNOWN_CLASS)
        return [dict(classes=one) for one in classes.to(torch.uint8)]

    def resized_results(self, output: Tensor, size: tuple[int, int]) -> list[dict]:
        """`results` of the output resized to (H, W), one class at a time: all at once need too much memory."""
        best = F.interpolate(output[:, :1], size=size, mode='bilinear')
        classes = torch.zeros_like(best, dtype=torch.uint8)
        for label in range(1, self.num_classes):
            scores = F.interpolate(output[:, label : label + 1], size=size, mode='bilinear')
            classes.masked_fill_(~(scores < best), UNKNOWN_CLASS).masked_fill_(scores > best, label)
            best = torch.maximum(best, scores)
        return [dict(classes=one) for one in classes[:, 0]]


@MODELS.register_module()
class DepthTask:
    """Depth of every pixel, standardised with the mean and std of the data set.

    'berhu' is the reversed Huber loss (arXiv:1606.00373): the error up to c, and (error^2 + c^2) / 2c beyond. c is a
    fifth of the largest error of the step, over all ranks. (In the release, of the batch of each GPU.) 'l1' is the
    absolute error.

    Args:
        mean, std: of the depth, in the unit of the files; the released ones are those of NYUv2 in millimetres.
        error: 'berhu' or 'l1'.
    """

    out_channels = 1

    def __init__(self, *, mean: float = 2070.7764, std: float = 777.5723, error: str = 'berhu'):
        if error not in ('berhu', 'l1'):
            raise ValueError(f"DepthTask: error={error!r} is unknown. Choose 'berhu' or 'l1'.")
        self.mean, self.std, self.error = mean, std, error
        self.needs_largest_error = error == 'berhu'

    def known(self, target: Tensor) -> Tensor:
        """-> bool of the same shape: pixels with a depth."""
        return target >= 0

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        """(B, 1, H, W), (B, 1, T=1, H, W) as stored -> (B, 1, H, W) in units of std, 0 where unknown."""
        errors = output.float() - (target[:, :, 0] - self.mean) / self.std
        return errors.abs().masked_fill(~self.known(target[:, :, 0]), 0)

    def loss(self, output: Tensor, target: Tensor, largest_error: Tensor | None = None) -> dict[str, Tensor]:
        """(B, 1, H, W), (B, 1, T=1, H, W) as stored, negative where unknown -> {'loss': mean over known pixels}.

        ``largest_error``: () of the step; by default that of this batch on all ranks.
        """
        errors = self.errors(output, target)
        if self.needs_largest_error:
            if largest_error is None:
                largest_error = errors.detach().amax()
                all_reduce(largest_error, 'max')
            c = (0.2 * largest_error).clamp(min=1e-5)
            errors = torch.where(errors < c, errors, (errors.square() + c * c) / (2 * c))
        return {'loss': errors.sum() / self.known(target).sum().clamp(min=1)}

    def results(self, output: Tensor) -> list[dict]:
        """(B, 1, H, W) -> B times dict(depth=(H, W)), in the unit of the files."""
        return [dict(depth=depth) for depth in output[:, 0].float() * self.std + self.mean]

    def resized_results(self, output: Tensor, size: tuple[int, int]) -> list[dict]:
        """`results` of the output resized to (H, W)."""
        return self.results(F.interpolate(output, size=size, mode='bilinear'))


@MODELS.register_module()
class DensePredictor(BaseModel):
    """Predict a class or depth for every pixel of images of one or several modalities.

    Args:
        backbone: config of a MultiModalViT, or of a SpatioTemporalViT for one modality. Its final norm is left out, as
            in the release.
        head: config of a ConvNeXtHead or a DPTHead.
        task: config of a SegmentationTask or a DepthTask.
        read: the modalities whose tokens the head reads, concatenated. The backbone sees all given modalities.
        data_preprocessor: config of a MultiModalPreprocessor.
    """

    feature_norm = None  # FrozenBackbone.norm that gives the same features

    def __init__(
        self,
        *,
        backbone: dict,
        head: dict,
        task: dict,
        read: Sequence[str] = ('rgb',),
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        meaning = MODELS.build(task)
        preprocessor = dict(data_preprocessor or dict(type='MultiModalPreprocessor'), target=True)
        preprocessor['num_classes'] = getattr(meaning, 'num_classes', None)
        super().__init__(MODELS.build(preprocessor), init_cfg)
        if isinstance(read, str):
            raise ValueError(f'read={read!r} is one name. Give a list: read=({read!r},).')
        self.task = meaning
        self.read = (*read,)
        asked = 'embed_dim', 'num_layers', 'feature_maps'
        self.backbone = build_backbone(backbone, 'DensePredictor', *asked, final_norm=False)
        self.data_preprocessor.input_classes = getattr(self.backbone, 'input_classes', {})
        modalities = getattr(self.backbone, 'modalities', self.read)  # a plain ViT takes its one by any name
        if not {*self.read} <= {*modalities}:
            raise ValueError(f'read={self.read} is not all of the backbone. Choose from {list(modalities)}.')
        depth = self.backbone.num_layers
        dims = getattr(self.backbone, 'layer_dims', [self.backbone.embed_dim] * depth)
        in_dims = tuple(dim * len(self.read) for dim in dims)
        in_dim = in_dims if len({*in_dims}) > 1 else in_dims[-1]
        self.head = MODELS.build({'in_dim': in_dim, 'out_channels': self.task.out_channels, **head})
        if not all(-depth <= layer < depth for layer in self.head.layers):
            raise ValueError(f'head.layers={self.head.layers}, but the backbone has the blocks 0 to {depth - 1}.')
        self.layers = [layer % depth for layer in self.head.layers]
        if self.layers[-1] != depth - 1:
            raise ValueError(
                f'head.layers={self.head.layers} ends before the last block, {depth - 1}, so later blocks would not be '
                'trained. End with it, or set backbone.depth.'
            )
        if self.layers != sorted({*self.layers}):
            raise ValueError(f'head.layers={self.head.layers} are not ascending numbers of blocks. Sort them.')

    def forward(
        self,
        clips: Mapping[str, Tensor],
        target: Tensor | None = None,
        mode: str = 'loss',
        largest_error: Tensor | None = None,
    ) -> dict[str, Tensor] | list[dict]:
        """What MMEngine calls: ``mode`` 'loss' or 'predict'."""
        if mode == 'loss':
            if target is None:
                raise ValueError(
                    'DensePredictor.loss needs a target, and this batch has none. Give the dataset target=.'
                )
            return self.loss(clips, target, largest_error)
        if mode == 'predict':
            return self.predict({name: only_view(clip) for name, clip in clips.items()})
        raise unknown_mode(mode)

    def begin_step(self, batches: Sequence[dict], sizes: Sequence[int], num_samples: int) -> list[Tensor] | None:
        """Count the known pixels of each micro-batch (EpochTrainLoop).

        If the loss needs the largest error of several micro-batches, all are predicted first, with the random numbers
        that they will have. That is a third more work.
        """
        if not all('target' in batch for batch in batches):
            return None  # forward will say so
        if self.task.needs_largest_error and len(batches) > 1:
            device = self.data_preprocessor.device
            with torch.random.fork_rng([device] if device.type == 'cuda' else []):
                largest_error = torch.stack([self._largest_error(batch) for batch in batches]).amax()
            all_reduce(largest_error, 'max')
            for batch in batches:
                batch['largest_error'] = largest_error
        return [self.task.known(batch['target']).sum() for batch in batches]

    def _largest_error(self, batch: dict) -> Tensor:
        inputs = self.data_preprocessor(batch, training=True)
        return self.task.errors(self.outputs(inputs['clips']), inputs['target']).amax()

    def loss(
        self, clips: Mapping[str, Tensor], target: Tensor, largest_error: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Modality -> (B, C, 1, H, W), and (B, 1, 1, H, W) -> {'loss', ...} of the task."""
        given = {} if largest_error is None else dict(largest_error=largest_error)
        return self.task.loss(self.outputs(clips), target, **given)

    def predict(self, clips: Mapping[str, Tensor]) -> list[dict]:
        """Modality -> (B, C, 1, H, W) -> B results of the task, of H x W pixels."""
        return self.task.results(self.outputs(clips))

    def outputs(self, clips: Mapping[str, Tensor]) -> Tensor:
        """Modality -> (B, C, 1, H, W), as stored or normalised -> (B, C of the task, H, W).

        The result has the size of the largest modality, since a map of classes may be smaller.
        """
        if missing := [name for name in self.read if name not in clips]:
            raise ValueError(f'The head reads {list(self.read)}, and {missing} are not given. Set model.read.')
        size = max([tuple(clip.shape[3:]) for clip in clips.values()])  # torch.compile takes no generator
        maps = self.backbone.feature_maps(self.data_preprocessor.normalize(clips), self.layers, self.read)
        if maps[0].shape[2] != 1:
            raise ValueError(f'DensePredictor takes images, and was given clips of {maps[0].shape[2]} tubelets.')
        return self.head([x[:, :, 0] for x in maps], size)
