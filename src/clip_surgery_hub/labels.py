"""Labels that fit: measured in inches, broken into lines, in fonts that have their signs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

LABEL_POINTS = 10.0
LABEL_LINES = 3
# Signs that the first font does not have are taken from the others, where they are installed.
FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
)


def installed_fonts() -> list[str]:
    """Those of FONTS that matplotlib finds on this machine; it brings the first of them itself."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def drawable(texts: Sequence[str], fonts: Sequence[str]) -> list[str]:
    """The texts with an empty box for every sign that no font has, and one warning that names those."""
    from matplotlib.font_manager import findfont, get_font

    known = {sign for name in fonts for sign in get_font(findfont(name)).get_charmap()}
    missing = sorted(
        {sign for text in texts for sign in text if ord(sign) not in known and not sign.isspace()}
    )
    if missing:
        shown = "".join(missing[:10]) + ("…" if len(missing) > 10 else "")
        warnings.warn(
            f"No font here has {shown}, drawn as empty boxes. Install one of: {', '.join(FONTS[1:])}.",
            stacklevel=4,
        )
    return [text.translate({ord(sign): "\N{WHITE SQUARE}" for sign in missing}) for text in texts]


def ruler(fonts: Sequence[str], dots_per_inch: float) -> Callable[[str], float]:
    """A function that tells how many inches wide a line of a label is."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer = RendererAgg(1, 1, dots_per_inch)
    font = FontProperties(family=list(fonts), size=LABEL_POINTS)
    return lambda text: renderer.get_text_width_height_descent(text, font, False)[0] / dots_per_inch


def broken(text: str, width: float, measure: Callable[[str], float]) -> tuple[str, ...]:
    """Break a label into at most LABEL_LINES lines, within a word only where it is longer than a line.

    Args:
        text: the label; any white space separates words.
        width: of a line, in inches.
        measure: what :func:`ruler` returned.

    Returns:
        The lines; the last ends in an ellipsis if there was more.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for sign in word:
            if lines[-1] and measure(lines[-1] + sign) > width:
                lines.append("")
            lines[-1] += sign
    if len(lines) > LABEL_LINES:
        last = lines[LABEL_LINES - 1]
        while last and measure(f"{last}…") > width:
            last = last[:-1]
        lines[LABEL_LINES - 1 :] = [f"{last.rstrip()}…"]
    return tuple(lines)
