"""The tests, a folder for each package; what they share is in `tests.support`."""

import os

# Read by huggingface_hub when it is imported, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
