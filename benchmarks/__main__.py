"""Measure, and print the table: `python -m benchmarks`, or with the names of the groups that are wanted."""

import os
import platform
import sys
from importlib import import_module
from importlib.metadata import version

# Set before torch is imported; two threads, so that figures from different machines can be compared.
os.environ.setdefault("OMP_NUM_THREADS", "2")

GROUPS = ("forward", "methods", "similarity", "texts", "memory", "predict", "evaluate")


def processor() -> str:
    """The processor's name."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def main() -> None:
    """Print one row after the other as they are measured."""
    groups = sys.argv[1:] or GROUPS
    unknown = set(groups) - set(GROUPS)
    if unknown:
        sys.exit(f"no such group: {', '.join(sorted(unknown))}; there is {', '.join(GROUPS)}")
    import torch

    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads{busy}; ", end="")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")) + "\n")
    print("| what | against | median | against | ratio | goal | |\n|---|---|---|---|---|---|---|")
    for group in groups:
        for row in import_module(f"benchmarks.{group}").rows():
            print(
                f"| {row.what} | {row.against} | {row.ours:.1f} {row.unit} | {row.baseline:.1f} {row.unit} "
                f"| {row.ratio:.3f} | {row.goal:.3f} | {'met' if row.met else 'missed'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
