"""A stand-in for label-studio-ml 2.x, which is not on PyPI: its documented interface and no more."""
