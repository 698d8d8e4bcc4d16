"""Write the tables of models.md from the registry: `python docs/make_models.py`."""

from pathlib import Path

from clip_surgery_hub.hub import MODELS, Entry, list_models

PAGE = Path(__file__).with_name("models.md")
MARK = "<!-- From here on written by docs/make_models.py. -->\n"

#: Families in the order of the page, and what they are.
FAMILIES = {
    "clip": "CLIP's own Vision Transformer, with class token; `CLIPModel` of `transformers`.",
    "metaclip_2": "CLIP's Vision Transformer with a multilingual text tower; `MetaClip2Model`.",
    "altclip": "CLIP's Vision Transformer with XLM-R as text tower; `AltCLIPModel`.",
    "chinese_clip": "CLIP's Vision Transformer with a Chinese RoBERTa as text tower; `ChineseCLIPModel`.",
    "siglip": "Vision Transformer without class token, read through its attention pool; `SiglipModel`.",
    "siglip2": "SigLIP 2 of fixed resolutions: the modules of SigLIP, trained otherwise; `SiglipModel`.",
    "eva": "EVA-02: rotary positions and gated MLPs; `Eva` of timm.",
    "resnet": "CLIP's ResNets with attention pool, patches are cells of the last map; `ByobNet` of timm.",
}


def tables() -> str:
    """A section for each family, with a row for each entry."""
    names = list_models()
    sections = []
    for family, about in FAMILIES.items():
        rows = [_row(MODELS[name]) for name in names if MODELS[name].family == family]
        head = "| name | pixels | patch | tower | C | activation | license | source | trained on |"
        rule = "|---|" + "--:|" * 4 + "---|" * 4
        sections.append("\n".join([f"## {family}\n", about, "", head, rule, *rows]))
    return "\n\n".join(sections) + "\n"


def page() -> str:
    """The whole page: what is written by hand, then the tables."""
    return PAGE.read_text().partition(MARK)[0] + MARK + "\n" + tables()


def _row(entry: Entry) -> str:
    bundled = Path(entry.source or "").is_absolute()
    home = f"https://huggingface.co/{entry.source}"
    link = f"{home}/tree/{entry.revision}" if entry.revision else home
    source = "in the package" if bundled else f"[{entry.source}]({link})"
    cells = (
        f"`{entry.name}`",
        entry.native_size,
        entry.patch,
        entry.width,
        entry.embedding_width,
        entry.activation,
        entry.license,
        source,
        entry.about,
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    PAGE.write_text(page())
