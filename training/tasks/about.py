"""What the tables of the page say, task by task: definitions, and what is counted."""

ABOUT = {
    "explanation": (
        "mSC: mean of the min-max map on the object minus off it, averaged over the words of an "
        "image, then over images, in percent. mIoU: overlap of map and object at the map's best "
        "threshold, mean over maps. Peak: share of maps whose highest pixel lies on the object. Concepts "
        "are asked for by the paper's prompts, or by each of ten phrases (`training/tasks/wordings.py`): "
        "mean over all maps of all ten. Counted: maps."
    ),
    "recognition": (
        "mAP: average precision of every concept over the images, then the mean over the concepts "
        "that are shown, in percent. Scores are those of CLS, which architecture surgery does not touch: "
        "`plain_scores` (raw CLIP) and `scores` (feature surgery) of an `Explanation`, and the two things "
        "that feature surgery does each alone. Concepts are asked for by the paper's prompts; by a phrase "
        "for all of them; or on a ground, where once every image of the concept is right and once only "
        "those on that ground (`training/tasks/wordings.py` has all wordings). Several wordings are "
        "measured one by one, and the mean is given. In brackets: the mean cosine of two texts, and how "
        "much the mean cosine of an image with all texts differs between images (standard deviation). "
        "The gain is measured in the same samples of the images as both scores, so its interval is "
        "narrower than theirs. Counted: concepts, summed over the wordings."
    ),
    "points": (
        "Share of the points of `Explanation.points` for the words that an image shows: positive ones on "
        "the word's object, negative ones off it, in percent; the mean over the texts counts a text of many "
        "points as one of few. All 227 concepts are the class set, or, where the variant says so, the "
        "words of the image and the 16 of the backgrounds. Images are read at native size, or at "
        "1.4 times of it: 112 pixels instead of 80. Counted: points, texts, points."
    ),
    "presence": (
        "For each image its own words and as many that it does not show, drawn at random. AUROC: "
        "how often a word that is shown ranks above one that is not, over all images, in percent. "
        "The library's presence is `Explanation.presence` with its own reference words; the others "
        "are the ways that `training/presence.py` compares. Counted: texts."
    ),
    "segmentation": (
        "mIoU: overlap and union of each class summed up over the pixels of all images, then the "
        "mean over the classes, in percent; the ground is one class, whichever background text a "
        "pixel gets. The texts compete with the 16 background words; either only the words that the "
        "image shows (told beforehand), or all 227. Plain similarity without architecture surgery "
        'is raw CLIP; `segment(features="plain")`, the default, is architecture surgery alone. '
        "Counted: classes."
    ),
    "masks": (
        "Overlap of the mask that SAM draws at the points of a word (all 227 concepts as the class "
        "set) with the word's object, mean over words, in percent; images are read as for the points. "
        "`score` takes the mask that SAM itself is surest of, `agreement` the one that agrees best with "
        "the heatmap. Counted: masks."
    ),
    "sentence": (
        "A caption of every image (`scenes.describe`). A word lights an object up by the mean of its "
        "min-max map on the object minus off it, and is ahead of another word that lights the object up "
        "less; in percent. Captions: share in which the objects' own words are ahead of the mean of the "
        "other words, mean over the objects that are named; objects: the same for each object; every other "
        "word: ahead of all of them at once; pairs: ahead of one other word; words that name nothing name "
        "neither an object nor the ground. Raw and architecture surgery compare the tokens as they are."
    ),
    "analysis": (
        "Share of the attention of patches on an object that lands on the same object, by queries and "
        "keys (as CLIP attends) or by values (as CLIP Surgery does), mean over the deeper half of the "
        "blocks, in percent; see [analysis.md](analysis.md). Counted: objects."
    ),
}
