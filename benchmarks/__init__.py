"""Speed and memory side by side, printed as ratios: `python -m benchmarks`."""
