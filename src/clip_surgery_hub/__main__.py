"""``python -m clip_surgery_hub``: the program ``clip-surgery``."""

from clip_surgery_hub.cli import main

main()
