"""Captions of synthetic scenes, in several wordings: names, number, position, background."""

from __future__ import annotations

from collections import Counter

import numpy as np

from clip_surgery_hub.scenes.draw import Scene

NUMBERS = ("no", "one", "two", "three", "four", "five")
# Captions are data: the bundled CLIP and its tokenizer were trained on these very words.
_OPENINGS = (
    "",
    "",
    "a picture of ",
    "a photo of ",
    "there is ",
    "a scene with ",
    "this is ",
    "we see ",
    "a drawing of ",
)
_SAME = frozenset(
    {
        "fish",
        "sheep",
        "deer",
        "squid",
        "tropical fish",
        "skis",
        "jeans",
        "glasses",
        "scissors",
        "headphones",
        "dice",
        "sushi",
        "bacon",
        "popcorn",
        "french fries",
        "grapes",
        "cherries",
        "peanuts",
    }
)


def plural(word: str) -> str:
    """The plural of a concept's word, as a caption writes it."""
    if word in _SAME:
        return word
    if word in {"mouse", "computer mouse"}:
        return word.removesuffix("mouse") + "mice"
    if word.endswith(("lf", "af")):
        return word[:-1] + "ves"
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeou":
        return word[:-1] + "ies"
    return word + "s"


def with_article(word: str) -> str:
    """The word with its indefinite article: "a dog", "an apple", "jeans"."""
    if word in _SAME:
        return word
    return f"an {word}" if word[0] in "aeiou" and not word.startswith("uk") else f"a {word}"


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """One caption of a scene, its wording drawn at random.

    It names some or all of the objects, how many there are of each, where two of them lie to each other, and
    often the background: "two dogs and an apple on grass", "a clock to the left of a star".
    """
    counts = Counter(scene.objects)
    words = list(counts)
    rng.shuffle(words)
    if not words:
        return f"{_opening(rng)}{scene.background or 'nothing'}"
    named = words[: int(rng.integers(1, len(words) + 1))] if rng.random() < 0.3 else words
    if len(scene.objects) >= 2 and rng.random() < 0.25:
        text = _position(scene, rng)
    else:
        things = [
            with_article(word) if counts[word] == 1 else f"{NUMBERS[counts[word]]} {plural(word)}"
            for word in named
        ]
        joint = " and " if rng.random() < 0.7 else " with "
        text = (
            ", ".join(things)
            if rng.random() < 0.2
            else joint.join([", ".join(things[:-1])] * (len(things) > 1) + things[-1:])
        )
    if scene.background and rng.random() < 0.5:
        text += f" {rng.choice(['on', 'in front of', 'and'])} {scene.background}"
    return _opening(rng) + text


def _opening(rng: np.random.Generator) -> str:
    return _OPENINGS[int(rng.integers(len(_OPENINGS)))]


def _position(scene: Scene, rng: np.random.Generator) -> str:
    """Two objects and how the first lies to the second, along the axis on which they are further apart."""
    first, second = rng.choice(len(scene.objects), 2, replace=False)
    across, down = scene.centers[second] - scene.centers[first]
    if abs(across) > abs(down):
        relation = "to the left of" if across > 0 else "to the right of"
    else:
        relation = "above" if down > 0 else "below"
    return f"{with_article(scene.objects[first])} {relation} {with_article(scene.objects[second])}"
