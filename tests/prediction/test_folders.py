"""What `predict` does with the folder it is given: refused where it does not fit, held, watched, told of."""

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
from lightning.pytorch.strategies import ModelParallelStrategy
from rich.console import Console

from clip_surgery_hub.prediction import ImageDataModule, RunWatch, ShardWriter, SurgeryPredictor
from clip_surgery_hub.prediction.runs import RunError, run_status
from tests.support.command_line import Run
from tests.support.prediction_runs import TEXTS, assert_complete, rows_of, write_images
from tests.support.rank_processes import Ranks, wait_until


@pytest.fixture(scope="module")
def begun(checkpoint, tmp_path_factory):
    """A folder with images, another, their keys, and the folder of a finished run."""
    root = tmp_path_factory.mktemp("begun")
    keys = write_images(root / "images", 12, broken=2)
    write_images(root / "other", 3)
    started = Ranks.start(command_of(root, checkpoint, root / "run"), root / "log")
    assert started.codes() == [1], started.err()
    assert started.out() == f"{root / 'run'}: 12 images explained, 2 could not be read\n"
    return root, keys


def command_of(root: Path, model: Path, run: Path) -> list[object]:
    return ["predict", root / "images", *TEXTS, "--model", model, "--size", 16, "--out", run]


@pytest.fixture
def predict(command: Run, checkpoint: Path, begun, tmp_path: Path):
    """Run the command in this process on a copy of the finished run, with more or other options."""
    root, _ = begun
    shutil.copytree(root / "run", tmp_path / "run")

    def predict(*more: object, out: Path | None = None, data: Path | None = None):
        arguments = command_of(root, checkpoint, out or tmp_path / "run")
        arguments[1] = data or arguments[1]
        return command(*arguments, "--accelerator", "cpu", "--devices", 1, *more)

    return predict


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but its locks, with what it holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "lock" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_finished_run_is_left_as_it_is(predict, tmp_path, begun):
    shards = {name: data for name, data in files_of(tmp_path / "run").items() if "parquet" in name}
    answer = predict("--batch-size", 5, "--workers", 1)
    assert (answer.code, answer.out.splitlines()[-1]) == (
        1,
        f"{tmp_path / 'run'}: 12 images explained, 2 could not be read",
    )
    assert shards == {name: data for name, data in files_of(tmp_path / "run").items() if "parquet" in name}
    assert_complete(tmp_path / "run", begun[1], rows_of(begun[0] / "run"))


MISMATCHES = {
    "texts": (["--text", "cat"], 'texts was ["bench", "dog"], is now ["bench", "dog", "cat"]'),
    "background": (["--background", "sky"], 'background was [], is now ["sky"]'),
    "outputs": (["--outputs", "scores"], 'outputs was ["scores", "presence", "points"], is now ["scores"]'),
    "size": (["--size", 24], "size was 16, is now 24"),
    "max_side": (["--max-side", 32], "max_side was null, is now 32"),
    "dtype": (["--dtype", "bfloat16"], 'precision was "32-true", is now "bf16-true"'),
    "method": (["--method", "none"], 'method was "clip_surgery", is now "none"'),
    "depth": (["--depth", 1], "depth was 2, is now 1"),
    "labels": (["--labels", 2], "labels was 5, is now 2"),
}


def assert_refused(answer, *said: str) -> None:
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("error: ")
    for one in said:
        assert one in answer.err


@pytest.mark.parametrize("name", MISMATCHES)
def test_another_setting_is_refused_and_the_difference_named(predict, tmp_path, name):
    options, difference = MISMATCHES[name]
    before = files_of(tmp_path / "run")
    answer = predict(*options)
    assert_refused(answer, "holds a run with other settings", difference, "or start anew with --overwrite")
    assert files_of(tmp_path / "run") == before


def test_other_data_and_another_model_are_refused(predict, checkpoint, begun, tmp_path):
    before = files_of(tmp_path / "run")
    answer = predict(data=begun[0] / "other")
    assert_refused(answer, f'data was "folder {begun[0] / "images"}", is now "folder {begun[0] / "other"}"')
    answer = predict("--model", "clip_vit_tiny.scenes")
    assert_refused(answer, f'model was "{checkpoint}", is now "clip_vit_tiny.scenes"', "weights was")
    assert files_of(tmp_path / "run") == before


def test_a_model_of_the_same_name_with_other_weights_is_refused(
    command: Run,
    checkpoint: Path,
    begun,
    tmp_path: Path,
):
    from transformers import CLIPModel

    copy = tmp_path / "model"
    shutil.copytree(checkpoint, copy)
    arguments = command_of(begun[0], copy, tmp_path / "run")
    assert command(*arguments, "--accelerator", "cpu").code == 1
    model = CLIPModel.from_pretrained(copy)
    model.visual_projection.weight.data[0, 0] += 1e-3
    model.save_pretrained(copy)
    answer = command(*arguments, "--accelerator", "cpu")
    assert_refused(answer, "weights was")
    assert "model was" not in answer.err


def test_overwrite_begins_anew(predict, begun, tmp_path):
    (tmp_path / "run" / "mine.txt").write_text("mine")
    answer = predict("--text", "cat", "--overwrite")
    assert answer.code == 1
    assert_complete(tmp_path / "run", begun[1])
    assert {len(row["scores"]) for row in rows_of(tmp_path / "run").values()} == {3}
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"


def test_a_folder_with_other_files_is_refused(predict, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"precious")
    for more in ([], ["--overwrite"]):
        answer = predict(*more, out=tmp_path / "photos")
        assert_refused(answer, "holds other files (holiday.jpg) and no run; it was left as it is")
        assert files_of(tmp_path / "photos") == {"holiday.jpg": b"precious"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--outputs", "scores,heat"], "There is no output 'heat'"),
        (["--outputs", ","], "No output was chosen"),
        (["--dtype", "int8"], "There is no dtype 'int8' here. Choose one of float32, bfloat16, float16."),
        (["--model", "clip_vit_tiny.nothing"], "clip_vit_tiny.nothing"),
        (["--method", "surgery"], "unknown method 'surgery'"),
        (["--depth", 9], "depth"),
        (["--size", 4], "4"),
        (["--text", "bench " * 40], "bench bench"),
        (["--column", "image"], "has no columns"),
        (["--precision", "32"], "No such option"),
        (["--accelerator", "abacus"], "abacus"),
        (["--devices", "many"], "The Trainer cannot be made"),
        (["--devices", 0], "The Trainer cannot be made"),
        (["--strategy", "abacus"], "abacus"),
    ],
)
def test_wrong_options_are_said_before_anything_is_written(predict, tmp_path, options, said):
    answer = predict(*options, out=tmp_path / "new")
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "new").exists()


def test_data_that_is_not_there_is_said_before_anything_is_written(predict, tmp_path):
    answer = predict(out=tmp_path / "new", data=tmp_path / "nowhere")
    assert_refused(answer, f"{tmp_path / 'nowhere'}")
    assert not (tmp_path / "new").exists()


def test_too_many_errors_end_a_run(predict, begun, tmp_path):
    run = tmp_path / "new"
    answer = predict("--max-errors", 1, "--batch-size", 1, out=run)
    assert_refused(answer, "2 images could not be read, at most 1 were allowed; what was done is recorded.")
    answer = predict("--max-errors", 2, out=run)
    assert answer.code == 1
    assert_complete(run, begun[1], rows_of(begun[0] / "run"))


@pytest.mark.slow
def test_a_run_is_held_watched_and_told_of_while_it_goes_on(checkpoint, begun, tmp_path, command):
    root, keys = begun
    run = tmp_path / "run"
    for number in range(50):
        shutil.copytree(root / "images", tmp_path / "many" / str(number))
    arguments = command_of(root, checkpoint, run)
    arguments[1] = tmp_path / "many"
    first = Ranks.start([*arguments, "--batch-size", 1, "--shard-rows", 50], tmp_path / "log")
    wait_until(lambda: run.exists() and bool(list((run / "ranks").glob("*.json"))), first)

    second = command(*arguments, "--accelerator", "cpu", "--devices", 1)
    assert_refused(second, f"Another run is writing to {run} (process {first.processes[0].pid} on ")
    overwriting = command(*arguments, "--accelerator", "cpu", "--text", "cat", "--overwrite")
    assert_refused(overwriting, f"Another run is writing to {run}")

    for _ in range(3):
        told = json.loads(command("status", run, "--json").out)
        if told["alive"]:
            assert told["done"] + told["failed"] + told["left"] == told["total"] == 50 * len(keys)
            assert (told["ranks"], told["left"] > 0) == (1, True)
    said = command("status", run)
    assert said.code == 0
    assert [line[:11].strip() for line in said.out.splitlines()] == [
        "done",
        "failed",
        "left",
        "speed",
        "time left",
        "state",
        "last heard",
    ]
    assert "running on 1 ranks" in said.out

    assert first.codes() == [1], first.err()  # unharmed
    told = json.loads(command("status", run, "--json").out)
    assert (told["done"], told["failed"], told["left"], told["alive"]) == (600, 100, 0, False)
    ended = command("status", run).out
    assert "finished" in ended and "0:00:00" in ended
    assert_complete(run, {f"{number}/{key}" for number in range(50) for key in keys})
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = {name: lines[-1][name] for name in ("done", "failed", "total", "left")}
    assert last == {"done": 600, "failed": 100, "total": 700, "left": 0}


def test_the_status_of_what_is_no_run_is_an_error(command: Run, begun, tmp_path):
    for folder in (begun[0] / "images", tmp_path / "nowhere"):
        answer = command("status", folder)
        assert_refused(
            answer, f"{folder} is no", "run.json is missing"
        ) if folder.exists() else assert_refused(answer, f"{folder} is not there")


def test_help_needs_no_torch():
    program = (
        "import sys; from clip_surgery_hub.cli import app\n"
        "for name in ('predict', 'status'):\n"
        "    try: app([name, '--help'], prog_name='clip-surgery')\n"
        "    except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'lightning', 'pyarrow', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--max-errors" in done.stdout and "RUN" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


# In a user's own Trainer


def trainer(*callbacks: lightning.Callback) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(accelerator="cpu", devices=1, callbacks=list(callbacks), **quiet)


def test_a_bar_is_drawn_on_a_terminal_alone(checkpoint, begun, tmp_path):
    root, keys = begun
    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=120)
        writer = ShardWriter(tmp_path / f"run-{terminal}")
        predictor = SurgeryPredictor(str(checkpoint), ["bench", "dog"], outputs=["scores"])
        watch = RunWatch(writer, console)
        images = ImageDataModule(str(root / "images"), batch_size=1)
        trainer(writer, watch).predict(predictor, images, return_predictions=False)
        if terminal:
            assert f"{len(keys)}/{len(keys)}" in screen.getvalue()
            assert "images/s, 2 failed" in screen.getvalue()
        else:
            assert screen.getvalue() == ""
        assert len((writer.out / "log.jsonl").read_text().splitlines()) == 1


def test_a_run_that_fails_is_let_go_and_can_be_gone_on_with_in_the_same_process(
    checkpoint,
    begun,
    tmp_path,
):
    root, keys = begun

    class Mistake(lightning.Callback):
        def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 4:
                raise ZeroDivisionError

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    predictor = SurgeryPredictor(str(checkpoint), ["bench", "dog"], size=16)
    images = ImageDataModule(str(root / "images"), batch_size=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            trainer(ShardWriter(tmp_path / "run"), Mistake()).predict(predictor, images)
        assert not run_status(tmp_path / "run").alive
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    status = run_status(tmp_path / "run")
    assert 8 <= status.done + status.failed < len(keys)
    trainer(ShardWriter(tmp_path / "run")).predict(predictor, images)
    assert_complete(tmp_path / "run", keys, rows_of(root / "run"))


def test_a_writer_refuses_what_is_none_of_its_own(tmp_path):
    class Other(lightning.LightningModule):
        def predict_step(self, batch, batch_idx):
            return batch

    with pytest.raises(TypeError, match="ShardWriter writes what a SurgeryPredictor predicts, not Other"):
        trainer(ShardWriter(tmp_path / "run")).predict(Other(), [1])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="max_errors must be 0 or more, got -1"):
        ShardWriter(tmp_path / "run", max_errors=-1)


def test_two_writers_in_one_process_cannot_share_a_folder(checkpoint, begun, tmp_path):
    predictor = SurgeryPredictor(str(checkpoint), ["bench"])
    writers = [ShardWriter(tmp_path / "run"), ShardWriter(tmp_path / "run")]
    with pytest.raises(RunError, match="Another run is writing to"):
        trainer(*writers).predict(predictor, ImageDataModule(str(begun[0] / "images")))
    assert not run_status(tmp_path / "run").alive


def test_a_strategy_whose_forward_needs_all_ranks_is_refused(checkpoint, tmp_path):
    from clip_surgery_hub.prediction import predict as predict_all

    images = ImageDataModule([("one", np.zeros((20, 20, 3), np.uint8))])
    with pytest.raises(ValueError, match="ModelParallelStrategy needs as many batches on every rank.*ddp"):
        predict_all(
            SurgeryPredictor(str(checkpoint), ["bench"], size=16),
            images,
            tmp_path / "run",
            accelerator="cpu",
            devices=2,
            strategy=ModelParallelStrategy(),
        )
    assert not (tmp_path / "run").exists()
