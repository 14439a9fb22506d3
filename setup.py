"""Packaging: pyproject.toml says everything. This file is for tools that look for it, as OpenMMLab's do."""

from setuptools import setup

setup()
