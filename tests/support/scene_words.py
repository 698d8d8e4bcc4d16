"""Which words of a synthetic scene's caption name its objects."""

import re

from clip_surgery_hub.results.sentence import SentenceExplanation
from clip_surgery_hub.scenes import Scene
from clip_surgery_hub.scenes.captions import plural


def named_words(scene: Scene, result: SentenceExplanation) -> dict[str, list[int]]:
    """The numbers of the words that name each object of a scene: two for "a ferris wheel"."""
    names, taken = {}, set[int]()
    for word in sorted(scene.words, key=len, reverse=True):  # "computer mouse" before "mouse"
        for match in re.finditer(rf"\b({plural(word)}|{word})\b", result.caption):
            found = words_within(result, match.span()) - taken
            if found:
                names[word] = sorted(found)
                taken |= found
                break
    return names


def words_that_name_nothing(
    scene: Scene, result: SentenceExplanation, names: dict[str, list[int]]
) -> list[int]:
    """The numbers of the other words: "a", "and", "to the left of"; neither background nor end token."""
    naming = {number for numbers in names.values() for number in numbers}
    for match in re.finditer(rf"\b{scene.background}\b", result.caption):
        naming |= words_within(result, match.span())
    return [number for number in range(len(result.words) - 1) if number not in naming]


def words_within(result: SentenceExplanation, span: tuple[int, int]) -> set[int]:
    return {
        number
        for number, word in enumerate(result.words)
        if not word.is_end and span[0] <= word.span[0] and word.span[1] <= span[1]
    }
