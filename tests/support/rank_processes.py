"""The command `predict` in real processes that are quick to start: forks of one that has imported all of it.

`Ranks` plays the part of torchrun's agent, so that tests can kill and signal ranks one by one.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
# Modules of packages alone: the process that forks does not know where the tests are.
FORKS.set_forkserver_preload(
    [
        "clip_surgery_hub.cli.predict",
        "clip_surgery_hub.hub",
        "clip_surgery_hub.prediction",
        "datasets",
        "pycocotools.mask",
        "transformers.models.clip.image_processing_clip",
        "transformers.models.clip.modeling_clip",
        "transformers.models.clip.tokenization_clip",
        "pyarrow.dataset",
        "webdataset",
    ]
)

PATIENCE = 120.0
"""Seconds after which a process that should have ended is taken to hang; never a measure of speed."""


def begin(environment: Mapping[str, str], log: str) -> None:
    """Become a program of its own, whose data loaders fork their workers; what it says goes to files."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(environment)


def command(arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """Be the program `clip-surgery`."""
    begin(environment, log)
    sys.argv = [str(Path(sys.executable).with_name("clip-surgery")), *arguments]
    from clip_surgery_hub.cli import main

    main()


def user_s_own(function: Callable[..., None], environment: Mapping[str, str], log: str, *given: Any) -> None:
    """Be a program of a user's own."""
    begin(environment, log)
    function(*given)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environments(ranks: int) -> Iterator[dict[str, str]]:
    """What torchrun sets for each of the ranks on one machine."""
    shared = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if ranks > 1:
        shared |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(ranks)}
        shared |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # The fixtures of this process are not known to the one that forks.
    shared |= {name: os.environ[name] for name in ("CLIP_SURGERY_CACHE", "HF_HUB_OFFLINE")}
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        yield shared | own


@dataclass
class Ranks:
    """The processes of one start.

    Attributes:
        processes: one per rank.
        logs: where rank r writes what it says: ``<logs>-<r>.out`` and ``.err``.
    """

    logs: Path
    processes: list[Any] = field(default_factory=list)

    @classmethod
    def start(
        cls, arguments: Sequence[object], logs: Path, *, ranks: int = 1, program: Any = None, devices: int = 0
    ) -> "Ranks":
        """Start `clip-surgery` with arguments on some ranks, or a function ``program(*arguments)``.

        With ``devices`` there is one process here, and Lightning starts the others.
        """
        if program is None:
            strategy = ["--strategy", "ddp"] if ranks > 1 else []
            devices = devices or ranks
            arguments = [*map(str, arguments), "--accelerator", "cpu", "--devices", str(devices), *strategy]
        started = cls(logs)
        for rank, environment in enumerate(environments(ranks)):
            log = f"{logs}-{rank}"
            for name in ("out", "err"):
                Path(f"{log}.{name}").write_bytes(b"")
            if program is None:
                process = FORKS.Process(target=command, args=(arguments, environment, log))
            else:
                process = FORKS.Process(target=user_s_own, args=(program, environment, log, *arguments))
            process.start()
            started.processes.append(process)
        return started

    def send(self, number: int, *ranks: int) -> None:
        """Signal some ranks, all if none is named."""
        for rank in ranks or range(len(self.processes)):
            if self.processes[rank].exitcode is None:
                os.kill(self.processes[rank].pid, number)

    def alive(self) -> bool:
        return any(process.exitcode is None for process in self.processes)

    def codes(self) -> list[int]:
        """The exit codes, once all have ended; a rank that hangs is killed and fails the test."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hung = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        if hung:
            self.send(signal.SIGKILL)
            raise AssertionError(f"ranks {hung} hang: {[self.err(rank)[-2000:] for rank in hung]}")
        return [process.exitcode for process in self.processes]

    def end(self, *, patience: float) -> list[int]:
        """End what is left after one has failed, as torchrun does: asked first, killed if that does not help.

        A rank that waits for others to begin with cannot be asked: PyTorch waits where Python hears nothing.
        """
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + patience
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        self.send(signal.SIGKILL)
        return self.codes()

    def out(self, rank: int = 0) -> str:
        return Path(f"{self.logs}-{rank}.out").read_text()

    def err(self, rank: int = 0) -> str:
        return Path(f"{self.logs}-{rank}.err").read_text()


def wait_until(
    condition: Callable[[], bool], ranks: Ranks | None = None, *, patience: float | None = None
) -> None:
    """Wait for something that must happen while the ranks live (or until they have ended).

    With ``patience`` it need not happen: so many seconds are waited at most.
    """
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while not condition():
        if ranks is not None and not ranks.alive():
            return
        if time.monotonic() >= deadline:
            assert patience is not None, "this should have happened by now"
            return
        time.sleep(0.01)


def recorded_rows(run: Path) -> int:
    """How many rows the manifests of a run name at this moment."""
    from clip_surgery_hub.prediction.runs.shard_records import count_rows, read_manifests

    return count_rows(read_manifests(run)).all if run.exists() else 0
