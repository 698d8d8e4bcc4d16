"""Five hundred broken checkpoints, each refused with one line; whole ones between them load as ever."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from clip_surgery_hub.checkpoints.weights import check_values, read_weights
from tests.support.broken_checkpoints import HARMLESS
from tests.support.checkpoint_damage import FORMATS, KINDS, MARKER, ONLY, TRANSFORMERS, Evil
from tests.support.paths import PYTHONPATH

EACH = 25
MOST_BYTES = 2 * 2**30  # of the process that loads, with all that it imports


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of all cases, in a process of their own whose memory is measured."""
    folder = tmp_path_factory.mktemp("broken")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.broken_checkpoints", str(folder), str(EACH)],
        env=os.environ
        | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text()) | {"stderr": done.stderr}


@pytest.mark.slow
def test_there_are_twenty_kinds_of_twenty_five_cases(answers):
    assert len(KINDS) == 20
    assert [case["kind"] for case in answers["cases"]] == [kind for kind in KINDS for _ in range(EACH)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_case_is_refused_with_one_line_that_names_file_and_fault(kind, answers):
    for case in (case for case in answers["cases"] if case["kind"] == kind):
        error, name = case["error"], f"{kind} {case['number']} of {case['format']}: {case}"
        assert case["type"] != "loaded", name
        assert case["is_right_type"], name  # ValueError or OSError
        assert "\n" not in error and len(error) < 1200, name
        assert all(re.search(words, error) for words in case["words"]), name
        assert not case["ran"], name


@pytest.mark.slow
def test_no_case_takes_much_memory(answers):
    assert answers["peak"] < MOST_BYTES


@pytest.mark.slow
def test_whole_checkpoints_load_between_them_and_give_the_same_features(answers):
    assert [control for control in answers["controls"] if not control["is_same"]] == []
    names = {control["name"] for control in answers["controls"]}
    assert names >= {f"{name} untouched" for name in FORMATS}
    assert names >= {f"{name} {change}" for name in TRANSFORMERS for change in HARMLESS}
    assert len(answers["controls"]) >= len(answers["cases"]) / 5


@pytest.mark.slow
def test_nothing_is_printed_besides_the_one_error(answers):
    assert "LOAD REPORT" not in answers["stderr"] and "Traceback" not in answers["stderr"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_command_line_says_it_in_one_line(kind, command, place):
    folder = place / "broken"
    FORMATS[ONLY[kind][0]](folder)
    KINDS[kind](random.Random(f"{kind} 0"), folder)
    answer = command("explain", "images/a.png", "--text", "cat", "--model", folder)
    assert answer.code == 2 and answer.out == ""
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and str(folder) in lines[0]
    assert not (place / MARKER).exists()


def test_a_whole_checkpoint_goes_through_the_command_line(command, place, checkpoint):
    shutil.copytree(checkpoint, place / "whole")
    answer = command("explain", "images/a.png", "--text", "cat", "--model", place / "whole")
    assert answer.code == 0, answer.err


TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "legacy.bin", "nested.bin"])
def test_weights_are_read_as_they_are(name, tmp_path):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        content = {"epoch": 3, "state_dict": TENSORS} if name == "nested.bin" else TENSORS
        torch.save(content, path, _use_new_zipfile_serialization=name != "legacy.bin")
    found = read_weights(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)
    assert all(found[key].dtype == TENSORS[key].dtype for key in TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_cut_off_anywhere_is_refused_by_name(zipped, tmp_path):
    path = tmp_path / "x.bin"
    # Of a zip of some size torch says "Invalid argument", as the system does of files that are not there.
    large = TENSORS | {"c": torch.arange(5000.0)}
    torch.save(large, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in range(0, len(whole), 397):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"the weights of \S*x\.bin are (empty|damaged)"):
            read_weights(path)


def test_a_header_that_names_a_tensor_twice_is_refused(tmp_path):
    """The one thing that safetensors takes: the last of the two."""
    path = tmp_path / "x.safetensors"
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    for header, is_whole in ((b"{" + entry + b"}", True), (b"{" + entry + b"," + entry + b"}", False)):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with safe_open(path, framework="pt") as file:
            assert list(file.keys()) == ["a"]
        if is_whole:
            assert torch.equal(read_weights(path)["a"], torch.zeros(1))
            continue
        with pytest.raises(ValueError, match=r"the header of .*x\.safetensors is damaged: 'a' is said twice"):
            read_weights(path)


def test_the_pickles_of_the_tests_run_code_where_nothing_stops_them(tmp_path):
    """Else the cases above would prove nothing."""
    torch.save({"a": Evil(os.mkdir, str(tmp_path / MARKER))}, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"x\.bin are damaged: .* holds code"):
        read_weights(tmp_path / "x.bin")
    assert not (tmp_path / MARKER).exists()
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]
)
def test_the_largest_and_smallest_finite_values_are_finite_and_no_others(dtype):
    limits = torch.finfo(dtype)
    values = torch.tensor([limits.max, limits.min, limits.tiny, 0.0] * 3, dtype=torch.float64).to(dtype)
    check_values({"w": values, "whole": torch.tensor([1, 2]), "none": torch.zeros(0, dtype=dtype)}, "x.bin")
    values = values.clone()
    values[4] = float("nan")
    with pytest.raises(ValueError, match=r"the weight 'w' of x\.bin holds 1 value that is NaN or infinite"):
        check_values({"w": values}, "x.bin")
    if dtype is not torch.float8_e4m3fn:  # it has no infinity
        for infinity in (float("inf"), float("-inf")):
            values[4], values[7] = infinity, 0.0
            with pytest.raises(ValueError, match="NaN or infinite"):
                check_values({"w": values}, "x.bin")
