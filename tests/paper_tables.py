"""The tables of OmniMAE's paper (arXiv:2206.08356) that its recipes are compared with, each stated once."""

from __future__ import annotations

IMAGES, VIDEOS = ('in1k', 'inat18', 'p365'), ('k400', 'ssv2', 'ek100')

# Section 3.2: architecture, patch, and blocks and width of the decoder
SIZES = {
    'b': ('base', (2, 16, 16), (4, 384)),
    'l': ('large', (2, 16, 16), (4, 512)),
    'h': ('huge', (2, 14, 14), (8, 512)),
}

# Percent of the tokens of images and of videos that are hidden: top-1 on IN1K and on SSv2
TABLE_1A = {
    (75, 75): (82.6, 67.2),
    (75, 90): (82.8, 67.9),
    (75, 95): (82.8, 68.1),
    (90, 75): (82.8, 67.7),
    (90, 90): (82.6, 68.5),
    (90, 95): (82.8, 68.6),
}
# Masks of images and of videos: the same
TABLE_1B = {
    ('random', 'tube'): (82.8, 67.9),
    ('causal', 'tube'): (82.1, 67.3),
    ('random', 'frame'): (82.9, 65.8),
    ('random', 'causal'): (82.8, 64.4),
    ('random', 'random'): (82.7, 67.8),
}
# Blocks and width of the common decoder: its parameters in millions, and the same
TABLE_1C = {
    (2, 384): (3.8, (82.7, 67.9)),
    (4, 384): (7.9, (82.8, 67.9)),
    (8, 384): (14.5, (82.8, 68.0)),
    (4, 512): (13.0, (82.7, 68.1)),
}

# Size and pretraining videos: top-1
TABLE_2 = {
    ('b', 'k400'): dict(in1k=82.9, inat18=74.2, p365=58.5, k400=80.8, ssv2=69.0, ek100=40.3),
    ('b', 'ssv2'): dict(in1k=83.0, inat18=74.0, p365=58.4, k400=80.6, ssv2=69.5, ek100=39.3),
    ('l', 'ssv2'): dict(in1k=85.2, inat18=79.6, p365=59.3, k400=84.0, ssv2=74.2, ek100=45.1),
    ('h', 'ssv2'): dict(in1k=86.5, inat18=83.0, p365=60.1, k400=84.8, ssv2=75.3, ek100=47.8),
}

# Size and benchmark: learning rate, epochs, warm-up, batch, weight decay, layer decay, DropPath
TABLE_4 = {
    ('b', 'in1k'): (4e-3, 100, 5, 1024, 1e-4, 0.65, 0.1),
    ('b', 'inat18'): (2e-3, 300, 5, 1024, 1e-4, 0.65, 0.1),
    ('b', 'p365'): (2e-3, 60, 5, 1024, 1e-4, 0.65, 0.1),
    **{(size, 'in1k'): (2e-3, 50, 5, 1024, 5e-2, 0.75, 0.2) for size in 'lh'},
    **{(size, 'inat18'): (2e-3, 100, 5, 1024, 5e-2, 0.75, 0.2) for size in 'lh'},
    **{(size, 'p365'): (2e-3, 50, 5, 1024, 5e-2, 0.75, 0.2) for size in 'lh'},
}
TABLE_5 = {
    ('b', 'k400'): (1e-3, 175, 9, 1024, 5e-2, 0.75, 0.1),
    ('b', 'ssv2'): (1e-3, 40, 5, 512, 5e-2, 0.75, 0.1),
    ('b', 'ek100'): (1e-3, 40, 5, 512, 5e-2, 0.75, 0.1),
    **{(size, 'k400'): (1e-3, 100, 9, 512, 5e-2, 0.75, 0.2) for size in 'lh'},
    **{(size, name): (1e-3, 40, 5, 512, 5e-2, 0.75, 0.2) for size in 'lh' for name in ('ssv2', 'ek100')},
}

REPLICAS = (1, 2, 4, 8)  # Figure 5a and b, of images and of videos
RATIOS = ((1, 1), (1, 2), (1, 3), (2, 1), (3, 1))  # Figure 5c, images to videos
