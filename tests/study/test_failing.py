"""What goes wrong in a real study: workers die, losses diverge, disks are full, folders cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from rich.console import Console

from puzzle_study import config
from puzzle_study.config import read
from puzzle_study.detectors import checkpoint
from puzzle_study.errors import UserError
from puzzle_study.io import replace_folder, write_json, write_text
from puzzle_study.results import RECORD_FORMAT, Results
from puzzle_study.study import attacking, engine
from puzzle_study.study.disk import cannot_write
from puzzle_study.study.engine import run_study
from puzzle_study.study.plan import Plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.ray import runner
from puzzle_study.study.ray.runner import LogFollower
from puzzle_study.study.ray.searcher import REFUSED, PlanSearcher
from puzzle_study.study.storage import Place
from puzzle_study.trials.record import Record, records
from puzzle_study.trials.run import Trial, run
from puzzle_study.trials.spec import TrialSpec
from tests.study.conftest import Tune, finish_here, plan_of, start, wait_until

DIVERGING = """
name: diverging
data: {name: digits, normal_classes: [3], max_train_images: 60, max_test_images: 40}
model: {base_channels: 8}
train: {epochs: 12, batch_size: 8, learning_rate: 0.002, precision: float32}
references: []
max_concurrent: 1
search:
  algorithm: grid
  space: {train.learning_rate: {choice: [1.0, 0.001]}, train.epochs: {choice: [12, 6]}}
"""
ROOM = """
name: room
data: {name: digits, normal_classes: [3], max_test_images: 40}
model: {base_channels: 2}
train: {epochs: 30, batch_size: 16, precision: float32}
references: []
max_concurrent: 1
seeds: [0, 1]
"""


@pytest.fixture
def room(tmp_path: Path) -> Plan:
    """The plan of two trainings."""
    return plan_of(tmp_path, ROOM)


def assert_as_undisturbed(spec: TrialSpec, results: Results, elsewhere: Path) -> None:
    """Run a trial once more, alone and in this process, and compare its error matrices to the bit."""
    again = Results(elsewhere)
    run(spec, again, device=torch.device("cpu"))
    expected, found = again.errors(spec.key), results.errors(spec.key)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("only root mounts a small disk, and only on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for block in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))
    return ballast


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint_and_a_diverging_training_fails_alone(tmp_path: Path) -> None:
    """Each training answers for 6 and for 12 epochs."""
    study, results = tmp_path / "diverging.yaml", Results(tmp_path / "results" / "diverging")
    study.write_text(DIVERGING, encoding="utf-8")
    process = start(study, "--results", tmp_path / "results")
    wait_until(lambda: any(results.root.glob("checkpoints/*/epoch-*.pt")), process, seconds=180)
    (running,) = results.root.glob("checkpoints/*")
    saved = max(int(path.stem.removeprefix("epoch-")) for path in running.glob("epoch-*.pt"))
    for child in psutil.Process(process.pid).children(recursive=True):
        if " ".join(child.cmdline()).startswith("ray::ImplicitFunc"):
            child.kill()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    six, twelve = sorted(
        (record.spec for record in records(results) if record.spec.stem == running.name),
        key=lambda spec: spec.settings.own.epochs_wanted,
    )
    said = "the worker of trial {0} stopped; the trial continues (see logs/{0}.log)"
    assert said.format(twelve.key) in out
    assert "Traceback" not in out
    assert err == "", "nothing is said but our own lines"
    trials = pd.read_csv(results.trials_file).set_index(["train.learning_rate", "train.epochs"])
    diverged = re.match(r"the loss (?:is not finite|diverges) after epoch (\d+) \(recon", trials.error[1.0, 12])
    assert diverged is not None
    assert trials.error[1.0, 12].endswith(f"(see logs/{trials.trial[1.0, 12]}.log)")
    failed = {(1.0, epochs) for epochs in (6, 12) if epochs >= int(diverged[1])}
    assert set(trials.index[trials.status == "failed"]) == failed
    assert f"{len(failed)} trials failed" in out
    assert set(trials.index) == {(rate, epochs) for rate in (0.002, 1.0, 0.001) for epochs in (6, 12)}
    assert trials.training.nunique() == 3
    log = results.log_file(twelve.key).read_text(encoding="utf-8")
    went_on = re.search(r"going on after epoch (\d+)", log)
    assert went_on is not None
    assert saved <= int(went_on[1])
    again = [int(epoch) for epoch in re.findall(r"INFO epoch (\d+),", log[went_on.end() :])]
    assert again == list(range(int(went_on[1]) + 1, 13)), "no epoch is run twice but those after the checkpoint"
    for spec in (six, twelve):
        assert_as_undisturbed(spec, results, tmp_path / "alone")


@pytest.mark.slow
def test_a_disk_that_fills_up_is_a_sentence_and_the_study_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second trial's worker finds the disk full, and then the driver itself, before anything is trained."""
    study, results = tmp_path / "room.yaml", Results(small_disk / "room")
    study.write_text(ROOM, encoding="utf-8")
    process = start(study, "--results", small_disk)
    wait_until(
        lambda: list(results.records()) and any(results.root.glob("checkpoints/*/epoch-*.pt")), process, seconds=180
    )
    ballast = fill(small_disk)
    (first,) = (record.spec.key for record in records(results))
    written = results.record_file(first).stat().st_mtime_ns
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, out + err
    assert "Traceback" not in out + err
    assert f"error: the disk of {results.root} is full" in err
    assert "continue with --resume" in err
    assert [record.spec.key for record in records(results)] == [first]
    assert not list(results.root.rglob(".*.part"))

    with monkeypatch.context() as patch:
        patch.setattr(engine, "started_ray", lambda *_, **__: contextlib.nullcontext())
        patch.delattr(runner, "run_trials")
        with pytest.raises(UserError, match="is full"):
            run_study(read.load(study), small_disk, resume=True, console=Console(file=StringIO()))

    ballast.unlink()
    finish_here(study, small_disk)
    assert results.record_file(first).stat().st_mtime_ns == written
    assert list(pd.read_csv(results.trials_file).status) == ["finished", "finished"]
    (second,) = (record.spec for record in records(results) if record.spec.key != first)
    assert_as_undisturbed(second, results, tmp_path / "alone")


def refused_in_process(results: Path, tmp_path: Path) -> str:
    """The sentence with which a study refuses a results folder before it starts Ray."""
    study = tmp_path / "room.yaml"
    study.write_text(ROOM, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        run_study(read.load(study), results, resume=False, console=Console(file=StringIO()))
    return str(refused.value)


def test_a_results_folder_on_a_read_only_disk_is_a_sentence(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert refused_in_process(small_disk, tmp_path).startswith(
        f"{small_disk / 'room'} cannot be written (Read-only file system)"
    )


@pytest.mark.parametrize("where", ["results/room", "results"])
def test_a_file_where_the_results_folder_should_be_is_a_sentence(where: str, tmp_path: Path) -> None:
    file = tmp_path / where
    write_text(file, "a file\n")
    assert f"{tmp_path / 'results' / 'room'} cannot be written" in refused_in_process(tmp_path / "results", tmp_path)
    assert file.read_text(encoding="utf-8") == "a file\n"


@pytest.mark.parametrize("where", ["/proc/nope", "/proc/self/nope/deeper", "a" * 300], ids=["proc", "deeper", "long"])
def test_a_results_folder_where_none_can_be_made_is_a_sentence(where: str, tmp_path: Path) -> None:
    if where.startswith("/proc") and not Path("/proc/self").is_dir():
        pytest.skip("only Linux has a file system in which nobody makes folders")
    folder = (tmp_path / where).resolve()
    assert f"{folder / 'room'} cannot be written" in refused_in_process(folder, tmp_path)


def test_errors_of_other_files_are_not_taken_for_the_results_folder(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "room"
    assert cannot_write(PermissionError(13, "Permission denied", "/etc/shadow"), folder) is None
    assert cannot_write(FileNotFoundError(2, "No such file", str(folder / "x")), folder) is None
    assert cannot_write(RuntimeError("shapes"), folder) is None
    denied = PermissionError(13, "Permission denied", str(folder / "records"))
    sentence = cannot_write(denied, folder)
    assert sentence is not None
    assert sentence.startswith(f"{folder} cannot be written (Permission denied)")


def test_a_full_disk_is_found_behind_what_pytorch_makes_of_it(tmp_path: Path) -> None:
    full = tmp_path / "weights.safetensors"
    full.symlink_to("/dev/full")
    with pytest.raises((RuntimeError, OSError)) as failed:
        checkpoint.write({"weights": torch.zeros(100_000)}, full)
    sentence = cannot_write(failed.value, tmp_path)
    assert sentence is not None
    assert sentence.startswith(f"the disk of {tmp_path} is full (No space left on device)")


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_copied_leaves_the_old_one_and_nothing_half_made(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(28, "No space left on device")

    source, target = tmp_path / "source", tmp_path / "results" / "best"
    source.mkdir()
    (source / "weights.safetensors").write_text("new", encoding="utf-8")
    if there:
        replace_folder(source, target)
        (source / "weights.safetensors").write_text("newer", encoding="utf-8")
    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(OSError, match="No space left"):
        replace_folder(source, target)
    assert [path.name for path in target.parent.iterdir()] == (["best"] if there else [])
    assert not there or (target / "weights.safetensors").read_text(encoding="utf-8") == "new"


HOG = "import sys, time; held = b'x' * int(sys.argv[1]); print('held', flush=True); time.sleep(600)"


@pytest.mark.slow
def test_workers_that_ray_kills_as_memory_runs_out_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    used, total = get_used_memory(), get_system_memory()
    # Room for other tests, which run beside this one and take and return memory meanwhile.
    room = min(6 * 2**30, total - used - 2 * 2**30)
    if room < 3 * 2**30:
        pytest.skip("needs 5 GiB of free memory")
    limit = used + room
    (tmp_path / "room.yaml").write_text(ROOM.replace("epochs: 30", "epochs: 60"), encoding="utf-8")
    threshold = f"{limit / total:.4f}"
    study = start(tmp_path / "room.yaml", "--results", tmp_path, RAY_memory_usage_threshold=threshold)
    results = Results(tmp_path / "room")
    wait_until(lambda: list(results.root.glob("checkpoints/*/*")), study)
    hog = max(0, limit - get_used_memory()) + 2**30
    with subprocess.Popen([sys.executable, "-c", HOG, str(hog)], stdout=subprocess.PIPE) as holder:
        try:
            assert study.stdout is not None
            while "memory ran out" not in (line := study.stdout.readline()):
                assert line, study.communicate()
        finally:
            holder.kill()
    output, errors = study.communicate(timeout=200)
    assert study.returncode == 0, output + errors
    assert "Traceback" not in output + errors
    assert list(pd.read_csv(results.trials_file).status) == ["finished"] * 2


@pytest.mark.slow
def test_a_study_whose_every_worker_dies_ends_with_its_report(tmp_path: Path, tune: Tune) -> None:
    (tmp_path / "room.yaml").write_text(ROOM, encoding="utf-8")
    threshold = {"RAY_memory_usage_threshold": "0.01"}
    done = tune(tmp_path / "room.yaml", "--results", tmp_path, "--set", "seeds=[0]", **threshold)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 trials failed, see trials.csv" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    page = (tmp_path / "room" / "report" / "index.html").read_text(encoding="utf-8")
    assert "1 of 1 trials failed" in page


# Ray reads its environment when it is imported, so that this needs a process of its own.
REFUSING = """
import json, sys
from pathlib import Path
from rich.console import Console
from puzzle_study import config
from puzzle_study.attacks.specs import attack_spec
from puzzle_study.config import read
from puzzle_study.errors import UserError
from puzzle_study.io import write_text
from puzzle_study.results import Results
from puzzle_study.study.attack_units import MethodUnit
from puzzle_study.study.attacking import run_attack_stage
from puzzle_study.study.engine import make_plan
from puzzle_study.study.progress import StageProgress
from puzzle_study.study.ray.cluster import local_ray
from puzzle_study.study.storage import Place

file, results, refused = read.load(Path(sys.argv[1])), Results(Path(sys.argv[2])), []

def ask(*call):
    try:
        call[0](*call[1:])
    except UserError as error:
        refused.append(str(error))

ask(local_ray(config.Resources(cpu=4096)).__enter__)
write_text(results.study_file, read.dump(file.study))
plan = make_plan(file, results)
with local_ray(file.study.resources):
    from puzzle_study.study.ray.runner import run_trials

    console = Console(stderr=True)
    progress = StageProgress("trials", plan.total, console=console)
    ask(run_trials, plan, results, progress, Place(str(results.root), version="9.9.9"))
    trial = plan.configurations[0].trials[0]
    attack = MethodUnit(trial, trial.settings.own.reading, (attack_spec("attack1", "fgsm", epsilon=0.1),), None)
    progress = StageProgress("attacks", 1, console=console)
    ask(run_attack_stage, [attack], file.study, results, Place.of(results, None), progress)
print(json.dumps([refused, [[record.status, record.error] for record in plan.records.values()]]))
"""


@pytest.mark.slow
def test_what_a_machine_or_a_worker_refuses_is_one_sentence_and_asked_once(tmp_path: Path) -> None:
    """More CPUs than there are; trials of another version, which stands in their records; a detector that is gone."""
    (tmp_path / "room.yaml").write_text(ROOM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", REFUSING, str(tmp_path / "room.yaml"), str(tmp_path / "room")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (resources, version, missing), ended = json.loads(done.stdout)
    assert resources.startswith("resources.cpu asks for 4096 CPUs")
    assert version.endswith("(the first 2 trials failed like this, so no more were run)")
    assert "holds no detector" in missing
    assert "Traceback" not in done.stderr
    assert [status for status, _ in ended] == ["failed"] * 2
    for _, error in ended:
        assert re.fullmatch(r"node .* has puzzle_study .*, the study runs 9\.9\.9; install that .*", error)
    assert "the trial continues" not in done.stderr, "what can only end the same is not tried again"


def test_no_log_is_named_that_is_not_there(room: Plan) -> None:
    searcher = PlanSearcher(room, room.results, {})
    keys = [TrialSpec.from_json(searcher.suggest(name)["spec"]).key for name in ("one", "other")]
    write_text(room.results.log_file(keys[1]), "going on\n")
    for name in ("one", "other"):
        searcher.on_trial_complete(name, None, error=True)
    errors = [room.records[key].error for key in keys]
    assert "logs/" not in errors[0]
    assert errors[1] == f"{errors[0]}, see logs/{keys[1]}.log"


def test_memory_that_runs_out_again_and_again_is_a_sentence(room: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def run_out(*arguments: object) -> runner.End:
        tried.append(len(tried))
        return runner.End.OUT_OF_MEMORY

    monkeypatch.setattr(runner, "_fit", run_out)
    output = StringIO()
    progress = StageProgress("trials", room.total, console=Console(file=output))
    with pytest.raises(UserError, match=r"memory ran out 4 times .*max_concurrent.*--resume"):
        runner.run_trials(room, room.results, progress, Place.of(room.results, None))
    assert len(tried) == 4
    assert output.getvalue().count("memory ran out") == 3


def test_a_trial_that_holds_no_gpu_is_trained_on_the_cpu_and_one_whose_gpu_cannot_be_used_is_refused(
    room: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(room.results.study_file, "here\n")
    spec = room.next()
    assert spec is not None
    devices: list[torch.device] = []
    reported: list[dict[str, Any]] = []

    def trained(trials: list[Trial]) -> Iterator[Trial]:
        for trial in trials:
            devices.append(trial.device)
            trial.record = Record(spec, "finished")
            yield trial

    monkeypatch.setattr(runner, "run_together", trained)
    monkeypatch.setattr(runner, "claim_cpus", lambda cpus: None)
    monkeypatch.setattr("ray.tune.report", reported.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpu in (0.0, 0.5):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpu=gpu: 0 if gpu else 1)
        resources = config.Resources(gpu=gpu)
        runner._trainable({"spec": spec.to_json()}, Place.of(room.results, None), resources, room.study.data)
    assert devices == [torch.device("cpu")]
    assert "sees 0 of 1 GPUs" in reported[-1][REFUSED]


@pytest.mark.parametrize(("max_concurrent", "most"), [(1, 1), (3, 3), (None, 7)])
def test_no_more_attacks_run_at_once_than_the_study_allows(
    max_concurrent: int | None, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in for Ray that counts what was handed to it and has not been waited for."""
    running: list[object] = []
    seen: list[int] = []
    actors: list[object] = []

    class Remote:
        def remote(self, unit: Any) -> object:
            task = object()
            running.append(task)
            seen.append(len(running))
            write_json(Results(tmp_path).attack_file(unit.key), {"format": RECORD_FORMAT, "rows": []})
            return task

    def actor(*_: Any) -> object:
        actors.append(types.SimpleNamespace(run=Remote()))
        return actors[-1]

    def wait(tasks: list[object], timeout: float) -> tuple[list[object], list[object]]:
        running.remove(tasks[0])
        return tasks[:1], tasks[1:]

    fake = types.ModuleType("ray")
    vars(fake).update(
        remote=lambda **options: lambda kind: types.SimpleNamespace(remote=actor),
        wait=wait,
        get=lambda tasks: None,
        nodes=lambda: [{"Alive": alive, "Resources": {"CPU": 7.0}} for alive in (True, False)],
    )
    errors = types.ModuleType("ray.exceptions")
    vars(errors).update(RayTaskError=RuntimeError)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", errors)
    units: list[Any] = [types.SimpleNamespace(key=f"unit{number}") for number in range(8)]
    write_json(Results(tmp_path).attack_file("unit0"), {"format": RECORD_FORMAT, "rows": []})
    output = StringIO()
    progress = StageProgress("attacks", 8, done=1, console=Console(file=output))
    study: Any = types.SimpleNamespace(resources=config.Resources(), max_concurrent=max_concurrent, data=None)
    attacking.run_attack_stage(units, study, Results(tmp_path), Place.of(Results(tmp_path), None), progress)
    assert [line.split(" · ")[0] for line in output.getvalue().splitlines()] == [
        f"attacks {count}/8" for count in range(2, 9)
    ], "each once, and not what has a record"
    assert len(seen) == 7
    assert max(seen) == most
    assert len(actors) == most, "a process is used again"


def test_the_follower_prints_whole_new_lines_behind_the_name_of_their_trial(tmp_path: Path) -> None:
    old, new, other = (Results(tmp_path).log_file(name) for name in ("old", "new", "other"))
    old.parent.mkdir()
    old.write_text("before\n", encoding="utf-8")
    said: list[str] = []
    follower = LogFollower(Results(tmp_path), said.append)
    for name in ("old", "new"):
        follower.begin(name)
    with old.open("a", encoding="utf-8") as log:
        log.write("after\nhal")
        log.flush()
        new.write_text("first\n", encoding="utf-8")
        other.write_text("of a trial that does not run\n", encoding="utf-8")
        follower.print_new()
        assert said == ["new first", "old after"]
        log.write("f\n")
        log.flush()
        follower.print_new()
        follower.begin("old")
        log.write("at the end\n")
    follower.end("old")
    with old.open("a", encoding="utf-8") as log:
        log.write("of a later run\n")
    follower.print_new()
    assert said == ["new first", "old after", "old half", "old at the end"]
