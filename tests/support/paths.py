"""Where things lie: the checkout, the installed package, and the files that come with each."""

import os
from pathlib import Path

import clip_surgery_hub

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "clip_vit"
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
PACKAGE = Path(clip_surgery_hub.__file__).parent
ASSETS = PACKAGE / "assets"
SAMPLES = ASSETS / "samples"

#: What processes of tests need in PYTHONPATH to import `tests.support`, before what is there already.
PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
