"""The command line: what it writes, what it prints, and one line for everything that can be wrong."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from clip_surgery_hub import CLIPSurgery, list_models, model_info
from clip_surgery_hub.cli import app, options
from clip_surgery_hub.cli.arguments import find_images
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_record
from clip_surgery_hub.cli.records import explanation_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder
from clip_surgery_hub.plotting.heatmaps import overlay
from tests.support.command_line import CommandResult, Run, files_in


@pytest.fixture
def run(command: Run, checkpoint: Path) -> Run:
    """Run a command; `explain` with the random checkpoint unless another model is named."""

    def run(*arguments: object) -> CommandResult:
        unnamed = arguments[0] == "explain" and "--model" not in arguments
        return command(*arguments, *(["--model", checkpoint] if unnamed else []))

    return run


def test_an_image_becomes_a_panel_overlays_maps_and_a_record(run: Run, place: Path, checkpoint: Path) -> None:
    answer = run("explain", "images/a.png", "--text", "bench", "--text", "a person!", "--out", "results")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[1].strip() == "results/a"
    folder = place / "results" / "a"
    names = {"panel.png", "overlay-01-bench.png", "overlay-02-a-person.png", "maps.npz", "result.json"}
    assert files_in(place / "results") == {f"a/{name}" for name in names}

    expected = CLIPSurgery.from_pretrained(str(checkpoint)).explain("images/a.png", ["bench", "a person!"])
    with np.load(folder / "maps.npz") as maps:
        np.testing.assert_allclose(maps["similarity"], expected.similarity[0], atol=1e-6)
        np.testing.assert_allclose(maps["plain_similarity"], expected.plain_similarity[0], atol=1e-6)
        np.testing.assert_allclose(maps["scores"], expected.scores[0], atol=1e-6)
        assert maps["texts"].tolist() == ["bench", "a person!"]
    for number, heatmap in enumerate(expected.heatmaps()[0]):
        drawn = np.asarray(Image.open(folder / sorted(names)[1:3][number])).astype(int)
        assert np.abs(drawn - overlay(expected.images[0], heatmap)).max() <= 1
    assert Image.open(folder / "panel.png").width > 500

    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert (record["image"], record["width"], record["height"]) == ("images/a.png", 60, 40)
    assert [one["text"] for one in record["texts"]] == ["bench", "a person!"]
    assert record["texts"][1]["points"] == expected.points()[0][1].xy.tolist()
    assert record["texts"][1]["score"] == pytest.approx(expected.scores[0, 1].item(), abs=1e-6)
    assert record["settings"]["method"] == "clip_surgery" and "torch" in record["settings"]["versions"]


def test_json_prints_json_and_writes_nothing(run: Run, place: Path) -> None:
    before = files_in(place)
    answer = run("explain", "images", "--text", "bench", "--text", "狗", "--json")
    assert (answer.code, answer.err) == (0, "")
    printed = json.loads(answer.out)
    assert [one["image"] for one in printed["images"]] == ["images/a.png", "images/b.jpg"]
    assert printed["texts"] == ["bench", "狗"] and printed["failed"] == []
    assert all(len(one["texts"]) == 2 and one["folder"] is None for one in printed["images"])
    assert files_in(place) == before


def test_a_bar_on_a_terminal_keeps_out_of_the_json(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    answer = run("explain", "images", "--text", "bench", "--json")
    assert "explaining" in answer.err and "2/2" in answer.err
    assert len(json.loads(answer.out)["images"]) == 2
    answer = run("explain", "images/a.png", "--text", "bench", "--json")
    assert (answer.code, answer.err) == (0, "")


def test_json_with_a_folder_writes_as_well(run: Run, place: Path) -> None:
    answer = run("explain", "images/b.jpg", "--text", "bench", "--json", "--out", "results")
    record = json.loads((place / "results" / "b" / "result.json").read_text(encoding="utf-8"))
    (printed,) = json.loads(answer.out)["images"]
    assert printed == record | {"folder": "results/b"}


def test_the_bundled_model_is_the_default_and_says_what_it_does_not_know(command: Run, place: Path) -> None:
    answer = command("explain", "images/a.png", "--text", "carburettor", "--text", "dog", "--json")
    assert answer.code == 0 and json.loads(answer.out)["model"] == "clip_vit_tiny.scenes"
    assert answer.err.startswith("note: ") and len(answer.err.splitlines()) == 1
    assert "'carburettor'" in answer.err and "'dog'" not in answer.err and "openai/clip-vit" in answer.err


def test_method_depth_size_and_dtype_reach_the_model(run: Run, place: Path) -> None:
    def settings_and_grid(*options: object) -> tuple[dict[str, object], list[int]]:
        answer = run("explain", "images/a.png", "--text", "bench", "--text", "man", "--json", *options)
        (image,) = json.loads(answer.out)["images"]
        return image["settings"], image["grid"]

    settings, grid = settings_and_grid("--depth", "1", "--size", "64")
    assert (settings["depth"], settings["size"], grid) == (1, 64, [8, 12])
    settings, grid = settings_and_grid("--method", "none", "--dtype", "bfloat16", "--device", "cpu")
    assert (settings["method"], grid) == ("none", [4, 6])


def test_folders_patterns_and_files_are_explained_once_each(run: Run, place: Path) -> None:
    (place / "other").mkdir()
    shutil.copy("images/b.jpg", "other/A.jpg")
    shutil.copy("images/b.jpg", "other/without suffix")
    (place / "images" / "notes.txt").write_text("not an image, and not asked for")
    Path("words.txt").write_text("bench\n\n  a tall person \n", encoding="utf-8-sig")
    named = ["images", "other/*.jpg", "images/a.png", "other/without suffix"]
    answer = run("explain", *named, "--text-file", "words.txt", "--json", "--out", "results")
    assert (answer.code, answer.err) == (0, "")
    printed = json.loads(answer.out)
    assert printed["texts"] == ["bench", "a tall person"]
    assert [(one["image"], one["folder"]) for one in printed["images"]] == [
        ("images/a.png", "results/a"),
        ("images/b.jpg", "results/b"),
        ("other/A.jpg", "results/A-2"),
        ("other/without suffix", "results/without suffix"),
    ]


def test_earlier_results_are_replaced_and_other_files_are_not(run: Run, place: Path) -> None:
    assert run("explain", "images/a.png", "--text", "bench", "--text", "man", "--out", "results").code == 0
    assert run("explain", "images/a.png", "--text", "grass", "--out", "results").code == 0
    assert files_in(place / "results") == {
        "a/panel.png", "a/overlay-01-grass.png", "a/maps.npz", "a/result.json"
    }  # fmt: skip
    (place / "results" / "a" / "notes.txt").write_text("mine")
    before = {name: (place / "results" / name).read_bytes() for name in files_in(place / "results")}
    answer = run("explain", "images/a.png", "--text", "bench", "--out", "results")
    assert answer.code == 2 and "holds other files" in answer.err
    assert {name: (place / "results" / name).read_bytes() for name in files_in(place / "results")} == before


def test_a_broken_image_among_others_is_reported_and_the_others_are_done(run: Run, place: Path) -> None:
    (place / "images" / "a2.png").write_bytes(b"not an image")
    (place / "images" / "c.png").write_bytes((place / "images" / "a.png").read_bytes()[:2000])
    answer = run("explain", "images", "--text", "bench", "--json", "--out", "results")
    assert answer.code == 1
    assert [line.split(":")[0] for line in answer.err.splitlines()] == ["error", "error"]
    assert "a2.png" in answer.err.splitlines()[0] and "c.png" in answer.err.splitlines()[1]
    printed = json.loads(answer.out)
    assert [one["image"] for one in printed["failed"]] == ["images/a2.png", "images/c.png"]
    assert [one["image"] for one in printed["images"]] == ["images/a.png", "images/b.jpg"]
    assert {Path(name).parent.name for name in files_in(place / "results")} == {"a", "b"}
    assert sorted(path.name for path in (place / "results").iterdir()) == ["a", "b"]


def test_only_broken_images_are_exit_code_2(run: Run, place: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (place / "images" / name).write_bytes(b"")
    answer = run("explain", "images", "--text", "bench", "--json", "--out", "results")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 2)
    assert not (place / "results").exists()


@pytest.fixture
def bad(place: Path) -> Path:
    """Files that cannot be explained or read, beside the good images."""
    whole = (place / "images" / "a.png").read_bytes()
    (place / "truncated.png").write_bytes(whole[: len(whole) // 2])
    photo = (place / "images" / "b.jpg").read_bytes()
    (place / "truncated.jpg").write_bytes(photo[: len(photo) // 2])
    (place / "empty.png").write_bytes(b"")
    (place / "words.png").write_text("not an image")
    (place / "no images").mkdir()
    (place / "latin.txt").write_bytes("Bänke".encode("latin-1"))
    (place / "blank.txt").write_text("\n \n")
    (place / "file").write_text("a file")
    return place


TEXT = ["--text", "bench"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.png", *TEXT], "no file or folder nothing.png"),
        (["no images", *TEXT], "folder no images holds no images"),
        (["*.webp", *TEXT], "No file matches the pattern *.webp"),
        (["words.png", *TEXT], "words.png"),
        (["truncated.png", *TEXT], "truncated.png"),
        (["truncated.jpg", *TEXT], "truncated.jpg"),
        (["empty.png", *TEXT], "empty.png"),
        (["images/a.png"], "No text was given"),
        (["images/a.png", "--text", ""], "A text is empty"),
        (["images/a.png", "--text", "bench", "--text", "  "], "A text is empty"),
        (["images/a.png", "--text", "bench", "--text", "bench"], "'bench' was given twice"),
        (["images/a.png", "--text", "many words " * 50], "many words"),
        (["images/a.png", "--text-file", "nothing.txt"], "nothing.txt cannot be read"),
        (["images/a.png", "--text-file", "latin.txt"], "latin.txt is not UTF-8"),
        (["images/a.png", "--text-file", "blank.txt"], "blank.txt holds no text"),
        (["images/a.png", *TEXT, "--model", "clip_vit_tiny.scene"], "'clip_vit_tiny.scenes'"),
        (["images/a.png", *TEXT, "--model", "no images"], "no images"),
        (["images/a.png", *TEXT, "--model", "nobody/such-a-model"], "nobody/such-a-model"),
        (["images/a.png", *TEXT, "--method", "clip_sugery"], "clip_surgery"),
        (["images/a.png", *TEXT, "--depth", "99"], "99"),
        (["images/a.png", *TEXT, "--depth", "0"], "0"),
        (["images/a.png", *TEXT, "--dtype", "int8"], "float32, bfloat16, float16"),
        (["images/a.png", *TEXT, "--device", "toaster"], "'toaster' cannot be used"),
        (["images/a.png", *TEXT, "--out", "file"], "file is a file where a folder was expected"),
        (["images/a.png", *TEXT, "--out", "file/inside"], "file cannot be written to (Not a directory)"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, bad: Path, arguments: list[str], message: str
) -> None:
    before = files_in(bad)
    answer = run("explain", *arguments, *([] if "--out" in arguments else ["--out", "results"]))
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and answer.err.startswith("error: ")
    assert message in answer.err
    assert files_in(bad) == before and not (bad / "results").exists()


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(run: Run, place: Path) -> None:
    (place / "locked").mkdir(mode=0o500)
    answer = run("explain", "images/a.png", *TEXT, "--out", "locked/results")
    assert answer.code == 2 and "locked cannot be written to" in answer.err


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", disk_full)
    answer = run("explain", "images", *TEXT, "--out", "results")
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1 and "No space left" in answer.err
    assert not (place / "results").exists()


def test_the_models_that_can_be_named_are_listed(run: Run) -> None:
    answer = run("models")
    assert (answer.code, answer.err) == (0, "")
    assert [line.split()[0] for line in answer.out.splitlines()] == list_models()
    assert [line.split()[0] for line in run("models", "*patch16*").out.splitlines()] == list_models(
        "*patch16*"
    )
    answer = run("models", "resnet*")
    assert (answer.code, answer.out) == (2, "") and "No model matches 'resnet*'" in answer.err


def test_models_are_told_in_lines_that_are_never_cut(run: Run) -> None:
    lines = run("models", "*b16*").out.splitlines()
    [line] = [line for line in lines if line.startswith("clip_vit_base_patch16.openai ")]
    assert re.split(r" {2,}", line) == [
        "clip_vit_base_patch16.openai",
        "clip",
        "224",
        "16",
        "512",
        "mit",
        "openai/clip-vit-base-patch16",
        "OpenAI's 400 million pairs: the one of the paper",
    ]
    [bundled] = run("models", "clip_vit_tiny").out.splitlines()
    assert "  apache-2.0  bundled  synthetic scenes" in bundled


def test_models_are_told_in_json(run: Run) -> None:
    answer = run("models", "clip_vit_*.openai", "--json")
    told = {facts["name"]: facts for facts in json.loads(answer.out)}
    assert list(told) == list_models("clip_vit_*.openai")
    large = told["clip_vit_large_patch14_336.openai"]
    assert (large["native_size"], large["patch"], large["embedding_width"]) == (336, 14, 768)
    assert (large["source"], large["activation"]) == ("openai/clip-vit-large-patch14-336", "quick_gelu")
    assert "clip_surgery" in large["methods"] and "config" not in large


@pytest.mark.parametrize("width", [120, 80])
def test_models_on_a_terminal_keep_their_names_whole(width: int) -> None:
    reader, writer = os.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm"}
    command = [sys.executable, "-m", "clip_surgery_hub", "models", "*.openai"]
    with subprocess.Popen(command, stdout=writer, env=environment) as process:
        os.close(writer)
        told = b""
        while True:
            try:
                told += (part := os.read(reader, 65536))
            except OSError:  # the other end is closed
                break
            if not part:
                break
    os.close(reader)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", told.decode())
    assert all(name in text and model_info(name).source in text for name in list_models("*.openai"))
    assert ("pixels" in text) == (width == 120)  # a table has a heading
    if width == 120:
        assert max(map(len, text.splitlines())) <= width


COMMANDS = ["explain", "points", "mask", "label", "segment", "sentence", "analyze", "models"]


@pytest.mark.parametrize("command", [["--help"], *([name, "--help"] for name in COMMANDS), ["--version"]])
def test_help_is_answered_without_torch(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from clip_surgery_hub.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print([name for name in ('torch', 'numpy', 'transformers', 'PIL') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]" and answer.stderr == ""


@pytest.mark.slow
def test_without_network_a_hub_id_is_one_line(place: Path) -> None:
    """In a process of its own, which may try the network and finds that nobody answers."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(place / "cache")}
    # The hub's client waits half a minute in all between its attempts; a test need not.
    code = "import time; time.sleep = lambda seconds: None; from clip_surgery_hub.cli import main; main()"
    typed = ["explain", "images/a.png", *TEXT, "--model", "nobody/model"]
    answer = subprocess.run(
        [sys.executable, "-c", code, *typed], capture_output=True, text=True, env=environment
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1 and "nobody/model" in answer.stderr
    assert not (place / "clip-surgery-out").exists()


def test_a_new_command_is_one_function_and_its_registration(
    command: Run, checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grids(
        images: options.Images, model: options.Model = options.BUNDLED, as_json: options.AsJson = False
    ) -> None:
        """Say how many patches an image has."""
        with errors_in_one_line() as console:
            paths = find_images(images)
            folders = image_folders(paths, None, command="grids", as_json=as_json)
            clip = open_model(model, images=paths)
            report = Report(console)
            for path, folder in progress(zip(paths, folders, strict=True), "counting", console):
                with report.image(path):
                    record = explanation_record(clip.explain(path, ["bench"]), image=path)
                    if folder is not None:
                        with results_folder(folder) as written:
                            write_record(record, written)
                    report.add(record, folder, "{} x {} patches".format(*record["grid"]))
        report.print(model=model, texts=["bench"], as_json=as_json)
        raise typer.Exit(report.exit_code)

    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    app.command()(grids)
    (place / "images" / "c.png").write_bytes(b"")
    answer = command("grids", "images", "--model", checkpoint)
    assert answer.out.splitlines() == [  # 60 x 40 and 30 x 50 with a short side of 32 pixels, in patches of 8
        "images/a.png: 4 x 6 patches",
        "  clip-surgery-out/grids/a",
        "images/b.jpg: 7 x 4 patches",
        "  clip-surgery-out/grids/b",
    ]
    assert answer.code == 1 and answer.err.startswith("error: ") and "c.png" in answer.err
    assert files_in(place / "clip-surgery-out") == {"grids/a/result.json", "grids/b/result.json"}
    answer = command("grids", "images/c.png", "--model", checkpoint, "--json")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
