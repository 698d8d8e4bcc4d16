"""What is written on a figure, and whether it can be read."""

from typing import Any


def words_of(figure: Any) -> list[Any]:
    """Everything that is written on a figure, and the legends."""
    found = [*figure.texts]
    for axes in figure.axes:
        found += [axes.title, *axes.texts]
        if axes.axison:
            found += [axes.get_legend(), axes.xaxis.label, axes.yaxis.label]
            found += [label for axis in (axes.xaxis, axes.yaxis) for label in tick_labels(axis)]
    return [one for one in found if one is not None and getattr(one, "get_text", lambda: True)()]


def tick_labels(axis: Any) -> list[Any]:
    """Those that are drawn: axes keep others beyond their ends."""
    low, high = sorted(axis.get_view_interval())
    pairs = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label for place, label in pairs if low <= place <= high]


def assert_readable(figure: Any) -> None:
    """No words over other words or over a cell, nothing beyond the page, nobody's window."""
    import matplotlib.pyplot

    assert matplotlib.pyplot.get_fignums() == []
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [one.get_window_extent(renderer) for one in words_of(figure)]
    cells = [axes.get_window_extent(renderer) for axes in figure.axes if not axes.axison]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        for other in (*boxes[number + 1 :], *(one.padded(-1) for one in cells)):
            assert not box.padded(-0.5).overlaps(other)
