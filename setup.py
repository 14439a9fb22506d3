"""Packaging of omnimae; everything a run needs comes from PyPI."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name='omnimae',
    version=re.search(r"__version__ = '(.+)'", (HERE / 'omnimae/__init__.py').read_text()).group(1),
    description='Masked autoencoding of images and videos with one Vision Transformer, on MMEngine.',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['omnimae', 'omnimae.*']),
    install_requires=[
        'torch>=2.6',
        'torchvision',
        'mmengine==0.10.7',
        'mmcv-lite==2.1.0',
        'mmpretrain==1.2.0',
        'mmaction2==1.2.0',
        'decord>=0.6.0; platform_system != "Darwin"',
        'av>=17',
        'numpy',
        'pillow>=11.3',  # AVIF
        'safetensors',
        'simplejpeg',
        'setuptools<81',  # MMEngine 0.10.7 imports pkg_resources
    ],
    extras_require={
        'demo': ['scikit-image'],  # its bundled photographs make the demo data
        'heif': ['pillow-heif'],  # photos of phones
        's3': ['s3fs'],  # of other object stores: gcsfs, adlfs, huggingface_hub
        'loggers': ['tensorboard', 'wandb'],
        'tests': [
            'pytest',
            'pytest-xdist',
            'hypothesis',
            'mypy==2.4.1',
            'pillow-heif',
            'ruff==0.17.6',  # another version formats otherwise
            'scikit-image',
            'tensorboard',
            'timm',
            'transformers',
        ],
    },
)
