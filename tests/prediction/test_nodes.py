"""A run on several machines, started by SLURM, torchrun or hand: real processes, networks of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_surgery_hub import read_errors, read_run
from clip_surgery_hub.prediction.runs import read_settings, verify_run
from tests.support.paths import EXAMPLES

PROGRAMS = Path(sys.executable).parent
COMMAND = str(PROGRAMS / "clip-surgery")
ASKED = ("--text", "sunflower", "--text", "fish", "--batch-size", "2", "--accelerator", "cpu", "--size", "32")
COUNT = 11  # no multiple of two


def environment(**more: object) -> dict[str, str]:
    paths = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return os.environ | {"PATH": paths} | threads | {name: str(value) for name, value in more.items()}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes and what was said; nothing is left running."""
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def start(*command: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(one) for one in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two shapes, one of them broken."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        shape = (40, 40 + 20 * (number % 2), 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    [(code, said)] = finish([start(COMMAND, "predict", images, *ASKED, "--out", run, env=environment())])
    assert code == 1, said
    return run


def assert_same(run: Path, alone: Path, *, ranks: int) -> None:
    """The run holds what one process found, and each rank has written some of it."""
    columns = read_run(alone).column_names
    ours, theirs = (read_run(one).sort_by("key") for one in (run, alone))
    assert ours["key"].to_pylist() == theirs["key"].to_pylist() == sorted(f"{n}.png" for n in range(COUNT))
    for column in set(columns) - {"scores", "presence"}:
        assert ours[column].to_pylist() == theirs[column].to_pylist(), column
    for column in ("scores", "presence"):
        values = (np.array(one[column].to_pylist()) for one in (ours, theirs))
        np.testing.assert_allclose(*values, atol=1e-5)
    assert read_errors(run).to_pylist() == read_errors(alone).to_pylist()
    assert {file.stem.rpartition("-")[2] for file in (run / "manifest").iterdir()} == {
        f"{rank:05}" for rank in range(ranks)
    }
    assert verify_run(run) >= ranks


@contextmanager
def two_networks() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces, 10.213.0.1 and 10.213.0.2, that see nothing but each other."""
    names = tuple(f"predict-{os.getpid()}-{number}" for number in range(2))
    try:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
        link = ["ip", "link", "add", "wire", "netns", names[0], "type", "veth"]
        made = subprocess.run(
            [*link, "peer", "name", "wire", "netns", names[1]], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"no veth can be made here: {made.stderr.strip()}")
        for number, name in enumerate(names, 1):
            inside = ["ip", "-netns", name]
            subprocess.run([*inside, "address", "add", f"10.213.0.{number}/24", "dev", "wire"], check=True)
            for device in ("lo", "wire"):
                subprocess.run([*inside, "link", "set", device, "up"], check=True)
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip is not installed")
def test_two_machines_with_a_network_between_them_make_one_run(
    images: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with two_networks() as names:
        processes = [
            start(
                *("ip", "netns", "exec", name),
                *(COMMAND, "predict", images, *ASKED, "--out", run, "--nodes", 2, "--devices", 1),
                env=environment(
                    MASTER_ADDR="10.213.0.1", MASTER_PORT=29500, NODE_RANK=rank, GLOO_SOCKET_IFNAME="wire"
                ),
            )
            for rank, name in enumerate(names)
        ]
        (first, said), (second, also) = finish(processes)
    assert (first, second) == (1, 0), said + also
    assert f"{run}: {COUNT} images explained, 1 could not be read" in said
    assert str(run) not in also
    assert_same(run, alone, ranks=2)


def agents(images: Path, run: Path) -> list[subprocess.Popen[str]]:
    """examples/torchrun.sh as two machines start it."""
    port = free_port()
    return [
        start(
            *(EXAMPLES / "torchrun.sh", images, *ASKED, "--out", run),
            env=environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK=rank),
        )
        for rank in range(2)
    ]


@pytest.mark.slow
def test_two_agents_of_torchrun_make_one_run(images: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (code, said), (_, also) = finish(agents(images, run))
    # 1, for an image could not be read; the report of torchrun says so, too.
    assert code == 1, said + also
    assert f"{run}: {COUNT} images explained, 1 could not be read" in said
    assert "exitcode  : 1 " in said
    assert_same(run, alone, ranks=2)


SRUN = """#!/bin/bash
# What srun does on a machine: starts the tasks, each with its number, and ends with their highest exit code.
while [[ $1 == --* ]]; do shift; done
for task in $(seq 0 $((SLURM_NTASKS_PER_NODE - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
  tasks+=($!)
done
echo "${tasks[@]}" > "$CLUSTER/tasks"
for task in "${tasks[@]}"; do
  wait "$task"
  code=$?
  if [[ $code -gt ${highest:-0} ]]; then highest=$code; fi
done
exit "${highest:-0}"
"""
SCANCEL = """#!/bin/bash
[[ $1 == --signal=TERM && $2 == "$SLURM_JOB_ID" ]] && kill -TERM $(cat "$CLUSTER/tasks")
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$CLUSTER/called"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with programs of SLURM's names that do on this machine what SLURM's own do on a cluster."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def submit(cluster: Path, *arguments: object, tasks: int, **more: object) -> subprocess.Popen[str]:
    """examples/slurm.sbatch as SLURM starts it on the first machine of a job."""
    job = {
        "SLURM_JOB_ID": 4242,
        "SLURM_JOB_NAME": "clip-surgery-predict",
        "SLURM_JOB_NUM_NODES": 1,
        "SLURM_NTASKS": tasks,
        "SLURM_NTASKS_PER_NODE": tasks,
        "SLURM_CPUS_PER_TASK": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "CLUSTER": cluster,
    }
    variables = environment(**job | more)
    variables["PATH"] = f"{cluster}{os.pathsep}{variables['PATH']}"
    return start("bash", EXAMPLES / "slurm.sbatch", *arguments, env=variables)


@pytest.mark.slow
def test_a_job_of_slurm_is_told_to_stop_requeues_itself_and_finishes(
    images: Path, cluster: Path, tmp_path: Path
) -> None:
    many, run = tmp_path / "many", tmp_path / "run"
    many.mkdir()
    for number in range(600):
        os.link(images / "0.png", many / f"{number:03}.png")
    job = submit(cluster, run, many, *ASKED, tasks=2)
    while not all((run / "ranks" / f"{rank}.json").exists() for rank in range(2)):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B:TERM does
    [(code, said)] = finish([job])
    assert code == 75, said
    assert "stopped early; back into the queue" in said
    assert (cluster / "called").read_text() == "requeue 4242\n"
    done = read_run(run).num_rows
    assert 0 < done < 600

    [(code, said)] = finish([submit(cluster, run, many, *ASKED, tasks=2)])
    assert code == 0, said
    assert f"{run}: 600 images explained, 0 could not be read" in said
    assert sorted(read_run(run)["key"].to_pylist()) == [f"{number:03}.png" for number in range(600)]
    assert (cluster / "called").read_text() == "requeue 4242\n"
    assert len(list((run / "manifest").iterdir())) == 4


@pytest.mark.slow
def test_a_task_of_an_array_has_data_and_a_run_of_its_own(
    images: Path, cluster: Path, tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / f"part-{number}").mkdir()
        os.link(images / f"{number}.png", tmp_path / f"part-{number}" / "one.png")
    runs, data = tmp_path / "runs", f"{tmp_path}/part-%a"
    [(code, said)] = finish([submit(cluster, runs, data, *ASKED, tasks=1, SLURM_ARRAY_TASK_ID=1)])
    assert code == 0, said
    assert read_settings(runs / "1")["data"] == f"folder {tmp_path}/part-1"
    assert read_run(runs / "1")["key"].to_pylist() == ["one.png"]
    assert [one.name for one in runs.iterdir()] == ["1"]


@pytest.mark.parametrize("script", ["slurm.sbatch", "torchrun.sh"])
def test_scripts_are_bash_and_ask_for_what_is_missing(script: str) -> None:
    assert subprocess.run(["bash", "-n", EXAMPLES / script]).returncode == 0
    bare = {name: value for name, value in environment().items() if not name.startswith("SLURM")}
    asked = subprocess.run(["bash", EXAMPLES / script], capture_output=True, text=True, env=bare)
    assert asked.returncode == 1
    assert ("the folder of the run" if script == "slurm.sbatch" else "number of this machine") in asked.stderr
