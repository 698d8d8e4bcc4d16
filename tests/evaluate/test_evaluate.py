"""Evaluations as a whole: right metrics for any number of ranks, kills, resumption, reports, commands."""

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from clip_surgery_hub.evaluate import (
    DATASETS,
    TASKS,
    Evaluation,
    evaluate,
    get_task,
    open_dataset,
    variants_of,
)
from clip_surgery_hub.evaluate.cases import extreme_cases
from clip_surgery_hub.evaluate.metrics import RowMetric
from clip_surgery_hub.evaluate.published import published_for
from clip_surgery_hub.evaluate.report import results_table
from clip_surgery_hub.evaluate.sweep import sweep
from clip_surgery_hub.evaluate.tasks import TaskOptions
from clip_surgery_hub.evaluate.variants import Variant
from clip_surgery_hub.functional import similarity_map
from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.model import CLIPSurgery
from clip_surgery_hub.towers import Surgery, Tower, find_tower
from clip_surgery_hub.transform import remove_surgery, surgery, surgery_state
from tests.support.command_line import Run
from tests.support.rank_processes import Ranks

BUNDLED = "clip_vit_tiny.scenes"
LIMIT = 7


@pytest.fixture(scope="module")
def clip() -> CLIPSurgery:
    """The bundled CLIP without surgery."""
    loaded = CLIPSurgery.from_pretrained(BUNDLED, method="none", device="cpu")
    remove_surgery(loaded.model)
    return loaded


Measure = Callable[..., Evaluation]


@pytest.fixture(scope="module")
def measure(clip: CLIPSurgery) -> Measure:
    """Evaluate the first synthetic scenes, asked for by the bare words."""

    def run(out: Path, task: str = "explain", **changes: Any) -> Evaluation:
        chosen = get_task(task)
        options = {
            "variants": variants_of(["none", "clip_surgery"], blocks=8, automatic=chosen.automatic),
            "limit": LIMIT,
            "templates": None,
            "accelerator": "cpu",
            "devices": 1,
            "draw": False,
            **changes,
        }
        model, variants = options.pop("model", clip), options.pop("variants")
        found = evaluate(model, open_dataset("scenes"), chosen, variants, out=out, **options)
        assert found is not None
        return found

    return run


@pytest.fixture(scope="module")
def measured(measure: Measure, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    return measure(folder), folder


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    return {f"{one.variant.name} {one.name}": one.value for one in evaluation.metrics}


def test_metrics_are_those_of_explanations_made_one_by_one(
    clip: CLIPSurgery, measured: tuple[Evaluation, Path]
) -> None:
    """The same scenes through CLIPSurgery.explain, its maps measured here."""
    dataset = open_dataset("scenes")
    words = dataset.classes.names
    embeds = dict(zip(words, clip.encode_text(words, None), strict=True))
    modified = CLIPSurgery.from_pretrained(BUNDLED, device="cpu")
    contrasts, best = [], []
    for index in range(LIMIT):
        sample = dataset.sample(index)
        assert sample.segmentation is not None
        explanation = modified.explain(sample.image, embeds)
        own = []
        for number in sample.labels.nonzero()[0]:
            mask = torch.from_numpy(sample.segmentation == number)
            similarity = explanation.surgery_similarity[0][number]
            heat = similarity_map(similarity.flatten()[None, :, None], similarity.shape, mask.shape)[0, 0]
            own.append(float(heat[mask].mean() - heat[~mask].mean()))
            overlaps = [
                float(((heat >= step / 100) & mask).sum() / ((heat >= step / 100) | mask).sum())
                for step in range(100)
            ]
            best.append(max(overlaps))
        contrasts.append(sum(own) / len(own))
    found = metrics_of(measured[0])
    assert found["clip_surgery-6-surgery mSC"] == pytest.approx(100 * sum(contrasts) / LIMIT, abs=2e-3)
    expected = 100 * sum(best) / len(best)
    assert found["clip_surgery-6-surgery mIoU, own threshold"] == pytest.approx(expected, abs=0.05)
    assert found["clip_surgery-6-surgery mSC"] > 20 > found["none-0-plain mSC"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_nothing(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path, batch_size: int
) -> None:
    again = measure(tmp_path / "run", batch_size=batch_size)
    # Batches of other sizes round otherwise, and a pixel at a threshold may fall on its other side.
    assert metrics_of(again) == pytest.approx(metrics_of(measured[0]), abs=0.05)


def test_a_window_that_holds_the_image_changes_nothing(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    again = measure(tmp_path / "run", window=80)
    assert metrics_of(again) == pytest.approx(metrics_of(measured[0]), abs=1e-6)


def test_windows_read_each_variant_by_itself(clip: CLIPSurgery, measure: Measure, tmp_path: Path) -> None:
    together = measure(tmp_path / "both", window=48, stride=24, limit=2)
    (alone,) = variants_of(["clip_surgery"], blocks=8)
    single = measure(tmp_path / "one", window=48, stride=24, limit=2, variants=[alone])
    expected = {name: value for name, value in metrics_of(together).items() if name.startswith("clip")}
    assert metrics_of(single) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "by", "before"),
    [(2, "Lightning", 0), (3, "torchrun", 0), (2, "torchrun", LIMIT - 1)],
    ids=["two", "three", "two for the last image"],
)
def test_ranks_change_nothing(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path, ranks: int, by: str, before: int
) -> None:
    """Real processes, whoever starts them.

    7 images are shared unequally, and where 6 were measured before, one rank has none.
    """
    if before:
        measure(tmp_path / "run", limit=before, variants=variants_of(["clip_surgery", "none"], blocks=8))
    given = ["evaluate", "scenes", "--templates", "none", "--limit", LIMIT, "--out", tmp_path / "run"]
    if by == "Lightning":
        started = Ranks.start([*given, "--strategy", "ddp"], tmp_path / "log", devices=ranks)
    else:
        started = Ranks.start(given, tmp_path / "log", ranks=ranks)
    assert set(started.codes()) == {0}, started.err()
    said = "".join(started.out(rank) for rank in range(len(started.processes)))
    assert said.count("| clip_surgery | 6 |") == 1  # one rank alone tells
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["images"] == LIMIT
    found = {
        f"{variant} {name}": metric["value"]
        for variant, told in results["variants"].items()
        for name, metric in told["metrics"].items()
    }
    # One image at a time here and eight there: see test_batches_change_nothing.
    assert found == pytest.approx(metrics_of(measured[0]), abs=0.05)
    assert len(list((tmp_path / "run" / "parts").iterdir())) == ranks


class Kill(lightning.Callback):
    """Kills the process after three batches."""

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, at: int, *_: Any
    ) -> None:
        if at == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def evaluate_until_killed(out: str) -> None:
    """A program of a user's own, which records after every image and does not come to its end."""
    torch.set_num_threads(1)
    loaded = CLIPSurgery.from_pretrained(BUNDLED, device="cpu")
    variants = variants_of(["none", "clip_surgery"], blocks=8)
    options: dict[str, Any] = {"templates": None, "draw": False, "batch_size": 1, "seconds": 0.0}
    options |= {"callbacks": [Kill()], "accelerator": "cpu", "devices": 1, "limit": LIMIT}
    evaluate(loaded, open_dataset("scenes"), get_task("explain"), variants, out=out, **options)


class Count(lightning.Callback):
    """How many images are measured."""

    def __init__(self) -> None:
        self.images = 0

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.images += len(batch)


@pytest.mark.slow
def test_a_killed_evaluation_resumes_where_it_was(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    """SIGKILL after three images of seven: the next start measures the others only."""
    started = Ranks.start([str(tmp_path / "run")], tmp_path / "log", program=evaluate_until_killed)
    assert started.codes() == [-signal.SIGKILL], started.err()
    recorded = len(list((tmp_path / "run" / "parts").glob("*.safetensors")))
    assert recorded in (2, 3)
    count = Count()
    again = measure(tmp_path / "run", callbacks=[count], batch_size=1)
    assert count.images == LIMIT - recorded
    assert metrics_of(again) == pytest.approx(metrics_of(measured[0]), abs=0.05)
    # All of it is there now: nothing is measured, and the metrics are the same.
    count = Count()
    assert metrics_of(measure(tmp_path / "run", callbacks=[count])) == metrics_of(again)
    assert count.images == 0


class Fail(lightning.Callback):
    """Ends the test after two batches."""

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, at: int, *_: Any
    ) -> None:
        if at == 1:
            raise RuntimeError("the disk is on fire")


def test_an_evaluation_that_fails_keeps_what_it_measured(measure: Measure, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on fire"):
        measure(tmp_path / "run", callbacks=[Fail()], batch_size=2)
    count = Count()
    measure(tmp_path / "run", callbacks=[count], batch_size=2)
    assert count.images == LIMIT - 4


class Keep(lightning.Callback):
    """What a test was made of, and what it logged."""

    def __init__(self) -> None:
        self.module: Any = None
        self.data: Any = None
        self.logged: dict[str, float] = {}

    def on_test_end(self, trainer: Any, module: Any) -> None:
        self.module, self.data = module, trainer.datamodule
        self.logged = {
            name.replace("/", " "): float(value) for name, value in trainer.callback_metrics.items()
        }


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_computed_once(
    measure: Measure, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted for an evaluation, its second half and one of which all is recorded; two variants each."""
    metric = type(get_task(task).metric(TaskOptions(classes=1)))
    summary, counted = metric.summary, []

    def count(self: RowMetric, *given: Any) -> Any:
        counted.append(given)
        return summary(self, *given)

    monkeypatch.setattr(metric, "summary", count)
    for number, limit in enumerate((2, 4, 4), start=1):
        keep = Keep()
        found = measure(tmp_path / "run", task, limit=limit, callbacks=[keep])
        assert len(counted) == 2 * number
        if number < 3:  # the log is of the same numbers, in single precision
            assert keep.logged == pytest.approx(metrics_of(found), rel=1e-6, nan_ok=True)


def test_a_trainer_of_ones_own_logs_every_metric(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    """Without a recorder, and again with the same evaluator: it measures anew."""
    keep = Keep()
    measure(tmp_path / "run", callbacks=[keep])
    for _ in range(2):
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        (logged,) = trainer.test(keep.module, keep.data, verbose=False)
        found = {name.replace("/", " "): value for name, value in logged.items()}
        assert found == pytest.approx(metrics_of(measured[0]), rel=1e-6)


def test_a_larger_limit_resumes_and_a_smaller_one_counts_fewer(measure: Measure, tmp_path: Path) -> None:
    few, more = measure(tmp_path / "run", limit=2), measure(tmp_path / "run", limit=4)
    count = Count()
    few_again = measure(tmp_path / "run", limit=2, callbacks=[count])
    assert count.images == 0
    assert (few.images, more.images, few_again.images) == (2, 4, 2)
    assert metrics_of(few_again) == metrics_of(few) != metrics_of(more)


def test_a_folder_with_other_settings_or_other_things_is_refused(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"other settings \(size 80, now 64\): name another folder"):
        measure(measured[1], size=64)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        measure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_damaged_part_is_named(measure: Measure, tmp_path: Path) -> None:
    measure(tmp_path / "run", limit=2)
    (part,) = (tmp_path / "run" / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"The part .*{part.name} is damaged"):
        measure(tmp_path / "run", limit=2)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_writes_its_results(measure: Measure, tmp_path: Path, task: str) -> None:
    found = measure(tmp_path / "run", task, limit=4, draw=True)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["variants"]) == {variant.name for variant in found.variants}
    for variant in found.variants:
        told = results["variants"][variant.name]
        assert (
            told["metrics"][found.task.primary_metric]["value"]
            == found.of(variant)[found.task.primary_metric].value
        )
        for values in told["per_class"].values():
            assert list(values) == list(found.class_names)
        for name in ("classes", "best", "worst"):
            assert (tmp_path / "run" / f"{name}_{variant.name}.png").stat().st_size > 1000
    assert results_table(found) in (tmp_path / "run" / "results.md").read_text()


def test_the_best_and_the_worst_are_what_they_say(measured: tuple[Evaluation, Path]) -> None:
    evaluation, _ = measured
    for variant in evaluation.variants:
        best, worst = extreme_cases(evaluation, variant, 3)
        values = sorted(evaluation.per_image[variant.name].values(), reverse=True)
        assert [case.value for case in best] == values[:3]
        assert [case.value for case in worst] == values[::-1][:3]
        assert not {case.index for case in best} & {case.index for case in worst}


def test_published_metrics_stand_beside_and_are_compared_where_the_method_is_the_same() -> None:
    known = [one for key in DATASETS for task in TASKS for one in published_for(key, task)]
    assert len(known) > 50
    assert {one.method for one in known} <= set(METHODS)
    paper = {one.metric: one.value for one in published_for("context59", "explain") if one.method != "none"}
    assert paper == {"mIoU": 46.28, "mSC": 34.32}
    assert {one.value for one in published_for("nus_wide", "recognize")} == {35.58, 39.99, 42.85, 47.19}


def test_variants_are_all_combinations_that_mean_something() -> None:
    found = variants_of(
        ["none", "clip_surgery", "naclip"], blocks=12, depths=[2, 6], features=["auto", "plain"]
    )
    assert [one.name for one in found] == [
        "none-0-plain",
        "clip_surgery-2-surgery",
        "clip_surgery-2-plain",
        "clip_surgery-6-surgery",
        "clip_surgery-6-plain",
        "naclip-1-plain",
    ]
    assert variants_of(["clip_surgery"], blocks=12, automatic="plain")[0].features == "plain"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": []}, "No method was given"),
        ({"methods": ["clip_sugery"]}, "did you mean 'clip_surgery'"),
        ({"methods": ["gem"], "depths": [13]}, "depth=13 is out of range"),
        ({"methods": ["gem"], "features": ["best"]}, "features must be of 'auto', 'plain', 'surgery'"),
    ],
)
def test_wrong_variants_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variants_of(**{"blocks": 12, **given})


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@torch.no_grad()
def test_one_pass_gives_every_variant_as_it_is_under_surgery(clip: CLIPSurgery, interpolation: Any) -> None:
    pixels = torch.randn(2, 3, 80, 104, generator=torch.Generator().manual_seed(0))
    blocks = len(clip.tower.blocks)
    surgeries = [Surgery(method, method.resolve_depth(None, blocks)) for method in METHODS.values()]
    surgeries.append(Surgery(METHODS["clip_surgery"], 2))
    found = clip.tower.encode_all(pixels, surgeries, interpolation=interpolation)
    for applied, tokens in zip(surgeries, found, strict=True):
        with surgery(clip.model, applied.method.name, applied.depth or None):
            expected = clip.tower.encode(pixels, interpolation=interpolation)
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("watched", [False, True], ids=["alone", "watched"])
@pytest.mark.parametrize("name", ["clip_surgery", "gem", "naclip", "none"])
@torch.no_grad()
def test_one_pass_for_one_variant(clip: CLIPSurgery, name: str, watched: bool, attention: str) -> None:
    """Nobody needs the last block's patches of the original path then, but somebody's hook sees them."""
    model: Any = copy.deepcopy(clip.model)
    model.set_attn_implementation(attention)
    tower = find_tower(model)
    seen: list[Tensor] = []
    last: Any = tower.blocks[-1]
    pixels = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    if watched:
        last.mlp.register_forward_hook(lambda module, given, output: seen.append(output))
    plain = tower.encode(pixels)
    method = METHODS[name]
    depth = method.resolve_depth(None, len(clip.tower.blocks))
    (found,) = tower.encode_all(pixels, [Surgery(method, depth)])
    with surgery(model, name):
        expected = tower.encode(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, 0], plain[:, 0], rtol=0, atol=1e-6)
    if watched:  # by the plain pass and by the one pass, the whole block both times
        torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["clip_surgery", "gem", "none"])
def test_a_model_under_any_method_is_measured_alike_and_left_as_it_was(
    measure: Measure, measured: tuple[Evaluation, Path], tmp_path: Path, method: str
) -> None:
    """The fixture's model is plain; these are not, and stay so when the evaluation fails half way."""
    model = CLIPSurgery.from_pretrained(BUNDLED, method=method, device="cpu")
    before = surgery_state(model.model)
    assert before is not None
    found = measure(tmp_path / "run", model=model)
    assert metrics_of(found) == metrics_of(measured[0])
    assert surgery_state(model.model) == before
    with pytest.raises(RuntimeError, match="on fire"):
        measure(tmp_path / "failed", model=model, callbacks=[Fail()], batch_size=2)
    assert surgery_state(model.model) == before


@torch.no_grad()
def test_towers_without_one_pass_are_left_as_they_were_too() -> None:
    """They go through the tower once per surgery, as `Tower` does; pixels without a patch fail half way."""
    tower = CLIPSurgery.from_pretrained(BUNDLED, method="gem", device="cpu").tower
    before = tower.surgery
    assert before is not None
    pixels = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    surgeries = [Surgery(METHODS["clip_surgery"], 6), Surgery(METHODS["none"], 0)]
    found = Tower.encode_all(tower, pixels, surgeries)
    assert tower.surgery == before
    for tokens, expected in zip(found, tower.encode_all(pixels, surgeries), strict=True):
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="holds no patch"):
        Tower.encode_all(tower, pixels[..., :4, :4], surgeries)
    assert tower.surgery == before


def test_sweep_finds_the_best_of_its_variants(clip: CLIPSurgery, tmp_path: Path) -> None:
    found = sweep(
        clip,
        open_dataset("scenes"),
        get_task("explain"),
        out=tmp_path,
        depths=[1, 6],
        sizes=[None, 64],
        templates={"bare": None},
        limit=3,
        accelerator="cpu",
    )
    values = {
        (part.size, metric.variant.name): metric.value
        for part in found.parts
        for metric in part.evaluation.metrics
        if metric.name == "mIoU"
    }
    assert len(values) == 2 * 6  # none and two depths, plain and after feature surgery, at two sizes
    part, best = found.best
    assert best.value == max(values.values()) == values[part.size, best.variant.name]
    assert found.table().count("**") == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "bare_64",
        "bare_80",
        "sweep.md",
        "sweep.json",
        "sweep.png",
    }
    curves = found.plot().axes[0].get_lines()
    assert [len(set(line.get_xdata())) for line in curves] == [2] * len(curves)
    assert len(curves) == 2 * 4


@pytest.mark.slow
def test_the_command_says_what_the_library_finds(
    command: Run,
    measured: tuple[Evaluation, Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    given = ["evaluate", "scenes", "--limit", LIMIT, "--templates", "none", "--method", "none,clip_surgery"]
    answer = command(*given, "--accelerator", "cpu", "--devices", 1, "--out", out)
    assert answer.code == 0, answer.err
    assert results_table(measured[0]) in answer.out
    assert answer.out.endswith(f"{out}\n")


def test_the_command_shows_the_data_sets(command: Run) -> None:
    answer = command("evaluate", "--list")
    assert answer.code == 0
    for key in DATASETS:
        assert f"{key}: " in answer.out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["evaluate", "voc2021"], "did you mean voc2012"),
        (["evaluate", "voc2012"], "The path has to hold VOCdevkit/VOC2012"),
        (["evaluate", "scenes", "--task", "explian"], "did you mean 'explain'"),
        (["evaluate", "scenes", "--method", "gme"], "did you mean 'gem'"),
        (["evaluate", "scenes", "--depth", "two"], "'two' must be whole numbers"),
        (["evaluate", "scenes", "--templates", "mine"], "no set of templates is called 'mine'"),
        (["evaluate", "scenes", "--dtype", "int8"], "There is no dtype 'int8'"),
        (["sweep", "scenes", "--size", "80px"], "'80px' must be whole numbers"),
    ],
)
def test_wrong_input_is_one_line(
    command: Run,
    tmp_path: Path,
    given: list[str],
    message: str,
) -> None:
    answer = command(*given, "--out", tmp_path / "run")
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_task_that_the_truth_does_not_allow_is_refused(clip: CLIPSurgery, tmp_path: Path) -> None:
    dataset = open_dataset("scenes")
    entry = type(dataset.entry)(**{**vars(dataset.entry), "tasks": ("recognize",)})
    dataset.entry = entry
    with pytest.raises(ValueError, match="does not tell what the task 'segment' needs; measure recognize"):
        evaluate(
            clip,
            dataset,
            get_task("segment"),
            [Variant(method="none", depth=0, features="plain")],
            out=tmp_path / "run",
        )
