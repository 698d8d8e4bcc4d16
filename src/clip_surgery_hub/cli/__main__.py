"""``python -m clip_surgery_hub.cli``."""

from clip_surgery_hub.cli import main

main()
