"""Why raw CLIP fails: where its patches attend to, and what its texts have in common (arXiv 2304.05653, 3).

The model is only looked at: each function reads a checkpoint under any method, with one call per image, and
leaves the model as it was. ``docs/analysis.md`` has the equations and what was measured.
"""

from clip_surgery_hub.analysis.attention import attention_analysis, attention_averages
from clip_surgery_hub.analysis.attention_results import AttentionAnalysis, AttentionAverages
from clip_surgery_hub.analysis.redundancy import redundancy_analysis
from clip_surgery_hub.analysis.redundancy_result import RedundancyAnalysis

__all__ = [
    "AttentionAnalysis",
    "AttentionAverages",
    "RedundancyAnalysis",
    "attention_analysis",
    "attention_averages",
    "redundancy_analysis",
]
