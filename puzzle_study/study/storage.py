"""Where a study's results are: in a folder that every node sees, or in a store at a URL.

With a URL the driver's results folder is a copy. A worker runs in a private folder and uploads a trial's files to
the store, the record last. The driver downloads them, and uploads tables and the report.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from puzzle_study import __version__
from puzzle_study.config.paths import is_url
from puzzle_study.errors import UserError
from puzzle_study.io import replacing
from puzzle_study.results import Results
from puzzle_study.study.disk import FULL

# Files below these folders have names that determine their content; the driver's own files do not.
KEYED = ("records", "errors", "detectors", "attacks", "corruptions", "logs")
UNITS = ("attacks", "corruptions")
REWRITTEN = ("best", "report")
NOT_KEPT = ("ray", "checkpoints")
# Google's client would retry for a quarter of an hour.
GCS_RETRY_SECONDS = 10
AT_FIRST = "check the address and the credentials of that machine"
MEANWHILE = "finished trials are kept: make the store reachable and continue with --resume"
# The text that the clients of S3 and GCS put around the cause.
NOISE = re.compile(r"^When .*?: (?=AWS Error )|google::cloud::Status\(| error_info=\{.*| \(Request ID: .*")


def results_folder(given: Path | None, storage: str | None) -> Path:
    """Return the parent folder of the study's own: the command line's, otherwise a shared folder or results/."""
    if given is not None:
        return given
    return Path(storage) if storage is not None and not is_url(storage) else Path("results")


class Store:
    """The files of the study ``name`` at a URL: ``s3://bucket/folder``, ``gs://bucket/folder`` or ``file:///folder``.

    Raises:
        UserError: pyarrow does not know the URL, it lacks a bucket, or it contains a password.
    """

    def __init__(self, url: str, name: str) -> None:
        from pyarrow import fs

        self.url = url
        try:
            parts = urlsplit(url)
            if parts.password is not None:
                raise UserError(
                    f"storage {parts.scheme}://…@{parts.hostname}{parts.path} contains a password, which would "
                    f"stay in every copy of study.yaml; remove it and give each node its credentials"
                )
            if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
                url += f"{'&' if parts.query else '?'}retry_limit_seconds={GCS_RETRY_SECONDS}"
            self._fs, path = fs.FileSystem.from_uri(url)
        except (OSError, ValueError) as error:
            raise self._unusable(error, AT_FIRST) from error
        if not path:
            raise UserError(f"storage {self.url} has no bucket; write {parts.scheme}://BUCKET/FOLDER")
        self._root = PurePosixPath(path) / name
        self._fs_is_local = isinstance(self._fs, fs.LocalFileSystem)
        self._selector, self._file = fs.FileSelector, fs.FileType.File

    def files(self, folder: str = "", *, half: bool = False) -> dict[str, int]:
        """Return names and sizes of the files below a folder; with ``half``, including partial uploads."""
        selector = self._selector(str(self._root / folder), allow_not_found=True, recursive=True)
        return {
            str(PurePosixPath(info.path).relative_to(self._root)): info.size
            for info in self._fs.get_file_info(selector)
            if info.type == self._file and info.base_name.endswith(".part") == half
        }

    def get(self, name: str, root: Path) -> None:
        """Download a file to the same name below ``root``, atomically."""
        with (
            replacing(root / name) as temporary,
            self._fs.open_input_stream(str(self._root / name)) as source,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)

    def put(self, name: str, root: Path) -> None:
        """Upload the file with that name below ``root``, atomically."""
        from pyarrow import memory_map

        path = self._root / name
        # An object of a store appears when it is complete; a file of a folder is renamed.
        written = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part") if self._fs_is_local else path
        if self._fs_is_local:
            self._fs.create_dir(str(path.parent), recursive=True)
        try:
            with memory_map(str(root / name)) as source, self._fs.open_output_stream(str(written)) as target:
                target.write(source.read_buffer())
        except BaseException as error:
            # An interrupted upload is closed, and a closed object looks complete; a failed one is missing.
            if self._fs_is_local or not isinstance(error, OSError):
                with contextlib.suppress(OSError):
                    self._fs.delete_file(str(written))
            raise
        if written != path:
            self._fs.move(str(written), str(path))

    def bring(self, paths: Iterable[Path], root: Path) -> None:
        """Upload those of these paths below ``root`` that are files, in this order."""
        for path in paths:
            if path.is_file():
                self.put(path.relative_to(root).as_posix(), root)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(str(self._root / name))

    def check(self) -> None:
        """Write and remove a file; UserError if this machine cannot."""
        # Several nodes may do this at once, some with the same host name.
        name = f".check-{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text("puzzle_study\n", encoding="utf-8")
            with self.explained(AT_FIRST):
                self.put(name, Path(folder))
                self.remove([name])

    @contextlib.contextmanager
    def explained(self, mend: str = MEANWHILE) -> Iterator[None]:
        """Turn an error between this machine and the store into a sentence that ends with how to fix it."""
        try:
            yield
        except OSError as error:
            # A remote store has no such number: this is the local disk.
            if error.errno in FULL and not self._fs_is_local:
                raise
            raise self._unusable(error, mend) from error

    def _unusable(self, error: Exception, mend: str) -> UserError:
        reason = NOISE.sub("", (str(error).splitlines() or [type(error).__name__])[0])
        return UserError(f"storage {self.url} cannot be used from {socket.gethostname()} ({reason}); {mend}")


@dataclass(frozen=True)
class Place:
    """Where a study's files are, for driver and workers.

    Attributes:
        root: the results folder; without a URL every node sees it under this path.
        url: the store with the original files; None: ``root`` has them.
        name: the study's own folder in the store.
        version: puzzle_study's version on the driver.
    """

    root: str
    url: str | None = None
    name: str = ""
    version: str = __version__

    @staticmethod
    def of(results: Results, storage: str | None) -> Place:
        """Return the place of a study with these results and that `storage`."""
        return Place(str(results.root), storage if is_url(storage) else None, results.root.name)

    def store(self) -> Store:
        assert self.url is not None
        return Store(self.url, self.name)

    # For the driver.

    def fetch(self) -> None:
        """Update the results folder from the store; UserError if it is unusable or the folder has another study."""
        if self.url is None:
            return
        store, results = self.store(), Results(Path(self.root))
        store.check()
        with store.explained(AT_FIRST):
            there = store.files()
            if "study.yaml" in there and results.study_file.exists():
                with tempfile.TemporaryDirectory() as folder:
                    store.get("study.yaml", Path(folder))
                    if (Path(folder) / "study.yaml").read_bytes() != results.study_file.read_bytes():
                        raise UserError(
                            f"{self.root} has another study than {self.url}/{self.name}; remove that folder, or "
                            f"choose another one with --results"
                        )
            self._get({name: size for name, size in there.items() if _part(name) not in NOT_KEPT}, store)

    def collect(self) -> None:
        """Download the files of trials and later stages from the store."""
        if self.url is not None:
            store = self.store()
            with store.explained():
                self._get({name: size for part in KEYED for name, size in store.files(part).items()}, store)

    def arriving(self, results: Results) -> Results:
        """Return results that download a record before it is read, to read trials as they end."""
        return results if self.url is None else _Arriving(results.root, self.store())

    def publish(self, *, finished: bool) -> None:
        """Upload the driver's files: the study and its own records, and at the end everything."""
        if self.url is None:
            return
        store, results = self.store(), Results(Path(self.root))
        here = {
            results.name(path): path.stat().st_size
            # environment.json marks the study as finished, so it is uploaded last.
            for path in sorted(results.root.rglob("*"), key=lambda path: (path == results.environment_file, path))
            if path.is_file() and not path.name.startswith(".")
        }
        early = ("study.yaml", "environment.json")
        with store.explained():
            there = store.files()
            for name, size in here.items():
                if _part(name) in KEYED:
                    wanted = there.get(name) != size
                else:
                    wanted = _part(name) not in NOT_KEPT and (finished or name in early)
                if wanted:
                    store.put(name, results.root)
            if finished:
                outdated = (*REWRITTEN, "checkpoints")
                store.remove(name for name in there if _part(name) in outdated and name not in here)
                store.remove(store.files(half=True))

    def bring(self, path: Path) -> None:
        """Upload one of the driver's files."""
        if self.url is not None:
            store = self.store()
            with store.explained():
                store.bring([path], Path(self.root))

    def _get(self, wanted: dict[str, int], store: Store) -> None:
        root = Path(self.root)
        for name, size in wanted.items():
            path = root / name
            settled = _part(name) in (*KEYED, "best")
            if not (settled and path.exists() and path.stat().st_size == size):
                store.get(name, root)

    # For workers.

    def has_record(self, key: str) -> bool:
        """Whether a trial of this run has ended."""
        if self.url is None:
            return Results(Path(self.root)).record(key) is not None
        return f"records/{key}.json" in self.store().files("records")

    @contextlib.contextmanager
    def trial(self, key: str, *, stem: str | None = None) -> Iterator[tuple[Results, Callable[[], None]]]:
        """Give a worker the results in which it runs a trial, and a function to call after each checkpoint.

        With a store, the checkpoints that there are after an epoch are uploaded during the next one, which waits for
        that at its end. ``stem`` is the name of the training if it is not the trial's own.

        Raises:
            UserError: this node has another version of the package, or does not see the results folder.
        """
        self._check_version()
        if self.url is None:
            results = Results(Path(self.root))
            if not results.study_file.exists():
                raise UserError(unseen(self.root, [socket.gethostname()]))
            yield results, lambda: None
            return
        store = self.store()
        with (
            tempfile.TemporaryDirectory(prefix="puzzle_study_") as folder,
            ThreadPoolExecutor(1) as uploader,
        ):
            results = Results(Path(folder))
            log, training = results.name(results.log_file(key)), stem or key
            for name in [
                *store.files(f"checkpoints/{training}"),
                *(name for name in store.files("logs") if name == log),
            ]:
                store.get(name, results.root)
            travelling: list[Future[None]] = []

            def saved() -> None:
                while travelling:
                    travelling.pop().result()
                names = [results.name(path) for path in sorted(results.checkpoints(training).glob("[!.]*"))]
                travelling.append(uploader.submit(_renew, store, names, f"checkpoints/{training}", results.root))

            try:
                yield results, saved
            finally:
                store.bring([results.log_file(key)], results.root)
            while travelling:
                travelling.pop().result()
            for part in ("errors", "detectors", "records"):
                store.bring(sorted((results.root / part).rglob("[!.]*")), results.root)
            store.remove(store.files(f"checkpoints/{training}"))

    @contextlib.contextmanager
    def unit(self) -> Iterator[Results]:
        """Give a worker with the study's version the results in which it runs a unit of a later stage."""
        self._check_version()
        if self.url is None:
            yield Results(Path(self.root))
            return
        store = self.store()
        with tempfile.TemporaryDirectory(prefix="puzzle_study_") as folder:
            results = _OnDemand(Path(folder), store)
            yield results
            left = [path for stage in UNITS for path in (results.root / stage).glob("[!.]*")]
            left.sort(key=lambda path: (path.suffix == ".json", path))
            with store.explained():
                store.bring(left, results.root)

    def _check_version(self) -> None:
        """Refuse another version; a node may have joined after the others were checked."""
        if self.version != __version__:
            raise UserError(
                f"node {socket.gethostname()} has puzzle_study {__version__}, the study runs {self.version}; "
                f"install that version on every node"
            )


class _Arriving(Results):
    """Results that download a record and its log before reading, and upload the records written here."""

    def __init__(self, root: Path, store: Store) -> None:
        super().__init__(root)
        self._store = store
        with store.explained():
            self._there = set(store.files("records"))

    def record(self, trial: str) -> dict[str, Any] | None:
        """Return a trial's record; download its log too, to which the record refers."""
        with self._store.explained():
            for path in sorted((self.root / "records").glob("[!.]*.json")):
                name = self.name(path)
                if name not in self._there:
                    self._store.put(name, self.root)
                    self._there.add(name)
            name = self.name(self.record_file(trial))
            with contextlib.suppress(FileNotFoundError):
                self._store.get(self.name(self.log_file(trial)), self.root)
            with contextlib.suppress(FileNotFoundError):
                self._store.get(name, self.root)
                self._there.add(name)
        return super().record(trial)

    def remove_record(self, trial: str) -> None:
        super().remove_record(trial)
        name = self.name(self.record_file(trial))
        if name in self._there:
            with self._store.explained():
                self._store.remove([name])
            self._there.discard(name)


class _OnDemand(Results):
    """Results that download a detector on demand."""

    def __init__(self, root: Path, store: Store) -> None:
        super().__init__(root)
        self._store = store

    def detector(self, trial: str) -> Path:
        folder = super().detector(trial)
        if not folder.exists():
            with self._store.explained():
                for name in self._store.files(f"detectors/{trial}"):
                    self._store.get(name, self.root)
        return folder


def unseen(root: str, nodes: Iterable[str]) -> str:
    """Return the error for nodes that do not see the results folder."""
    return (
        f"{root} is not the same folder on {', '.join(nodes)}; set `storage` to a folder that every node sees, "
        f"or to an s3:// or gs:// URL"
    )


def _renew(store: Store, names: list[str], folder: str, root: Path) -> None:
    """Upload the files of a folder that the store lacks, then remove the others there."""
    there = store.files(folder)
    for name in names:
        if name not in there:
            try:
                store.put(name, root)
            except FileNotFoundError:
                # A newer checkpoint may have taken its place meanwhile; that one is next.
                if (root / name).exists():
                    raise
    store.remove(name for name in there if name not in names)


def _part(name: str) -> str:
    return PurePosixPath(name).parts[0]
