"""Figures of the archive, each beside a floor or a rival measured in the same run: `python -m benchmarks`."""
