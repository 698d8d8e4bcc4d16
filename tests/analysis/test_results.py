"""What both results say, and what they do not know."""

import json

import pytest

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import (
    AttentionAnalysis,
    RedundancyAnalysis,
    attention_analysis,
    redundancy_analysis,
)
from tests.support.analyses import TEXTS, random_image


def test_dictionaries_hold_the_numbers_and_become_json(
    clip: CLIPSurgery, attention: AttentionAnalysis, redundancy: RedundancyAnalysis
) -> None:
    values = json.loads(json.dumps(attention.to_dict()))
    assert values["patch"] == {"row": 1, "column": 3} and values["grid"] == [4, 6]
    share = values["attention"]["value_value"]["same_object"]
    assert share == pytest.approx(attention.same_object("value_value").tolist())
    assert values["cosine_to_cls"]["mlp"][2] == pytest.approx(
        float(attention.cosines_to_cls["mlp"][2].mean())
    )
    bare = attention_analysis(clip, random_image(), patch=(0, 0)).to_dict()
    assert bare["chance"] is None and bare["attention"]["key_key"]["same_object"] is None
    values = json.loads(json.dumps(redundancy.to_dict()))
    assert values["msc"]["raw"] == pytest.approx(redundancy.msc("raw"))
    assert values["channels"][0]["channel"] == int(redundancy.order[0]) and len(values["channels"]) == 20
    assert values["contrasts"]["both"][2] == {}


def test_what_was_not_asked_for_is_refused(
    clip: CLIPSurgery, attention: AttentionAnalysis, redundancy: RedundancyAnalysis
) -> None:
    with pytest.raises(ValueError, match="comparison must be one of 'raw', .*, got 'before'"):
        redundancy.similarity("before")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the objects' masks: give masks="):
        redundancy_analysis(clip, random_image(), TEXTS).msc("raw")
    with pytest.raises(ValueError, match="number must be one of the images 0 to 2, got 3"):
        redundancy.plot(number=3)
    with pytest.raises(ValueError, match="'cow' is none of the class set's texts"):
        redundancy.plot(texts=["cow"])
    for blocks in ([4], [-1], []):
        with pytest.raises(ValueError, match="blocks must name some of the blocks 0 to 3"):
            attention.plot(blocks=blocks)
    with pytest.raises(ValueError, match="opacity must lie in"):
        attention.plot(opacity=2.0)
