"""The mirror: a copy of a run in an object store. Shards are sent when they are sealed, the merged files at the end.

Nothing can be appended to an object of a store, so a shard stays in the run directory until it is sealed. The seal of a
shard is sent last; hence a shard that has a seal in the store is whole. The mirror knows nothing of drivers: its own
thread looks for new seals in the run directory.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectr_jobs.console import say
from spectr_jobs.inputs.stores import filesystem, reaching
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.layout import EVENTS, MANIFEST, SEAL, SHARDS
from spectr_jobs.urls import masked
from spectr_runtime.errors import SpectrError, UsageError
from spectr_runtime.files import file_sha256, replace

LOOK_SECONDS = 5.0  # between two looks for new seals


class Mirror:
    """A copy of a run at a URL that fsspec opens."""

    def __init__(self, url: str) -> None:
        """Find the store of a URL. Some are connected to for that, and the others not reached yet.

        Raises:
            UsageError: fsspec does not know the URL, or is not installed.
            SpectrError: The store cannot be reached, or refuses.
        """
        self._url = url.rstrip("/")
        self._store, self._root = filesystem(self._url, "Writing to")
        self._sent: dict[str, bytes] = {}  # the seals in the store, by the names of their shards

    def fetch(self, folder: Path) -> None:
        """Copy the sealed shards of the store into a run directory that has no manifest yet.

        The manifest is copied last, so that a fetch that was killed is begun anew.

        Args:
            folder: The run directory.

        Raises:
            SpectrError: The store cannot be reached, or a shard in it is damaged.
        """
        if (folder / MANIFEST).exists():
            return
        with reaching(self._url):
            self._store.invalidate_cache()
            if not self._store.exists(f"{self._root}/{MANIFEST}"):
                return
            names = self._sealed_there()
            for name in names:
                self._fetch_shard(name, folder / SHARDS / name)
            replace(folder / MANIFEST, [self._store.cat_file(f"{self._root}/{MANIFEST}")])
        say(f"{len(names):,} finished shards came back from {masked(self._url)}")

    @contextlib.contextmanager
    def following(self, run: RunDirectory, numbers: Sequence[int]) -> Iterator[None]:
        """While the block runs, send shards as they are sealed; after the block, the remaining ones and merged files.

        While the block runs, errors of the store are ignored, since everything is sent again after it.

        Args:
            run: The run directory.
            numbers: Numbers of the shards to send.

        Raises:
            UsageError: The URL holds another run.
            SpectrError: The store cannot be reached.
        """
        self._claim(run)
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(run, numbers, ended), daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            thread.join()
            with _errors_shown():
                self._send_shards(run, numbers)
            raise
        ended.set()
        thread.join()
        self._send_shards(run, numbers)
        self._send_merged(run)

    def _follow(self, run: RunDirectory, numbers: Sequence[int], ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            with contextlib.suppress(SpectrError):
                self._send_shards(run, numbers)

    def _claim(self, run: RunDirectory) -> None:
        """Send the manifest, or check that the store holds the same one; then list the shards that the store has."""
        mine, there = (run.path / MANIFEST).read_bytes(), f"{self._root}/{MANIFEST}"
        with reaching(self._url):
            self._store.invalidate_cache()
            if not self._store.exists(there):
                self._store.pipe_file(there, mine)
            elif self._store.cat_file(there) != mine:
                raise UsageError(f"{masked(self._url)} holds another run.", hint="Name another URL with --mirror.")
            self._sent = {name: self._store.cat_file(self._seal_of(name)) for name in self._sealed_there()}

    def _send_shards(self, run: RunDirectory, numbers: Sequence[int]) -> None:
        """Send the sealed ones among some shards, unless the store has them with the same seal."""
        with reaching(self._url):
            for folder in map(run.shard, numbers):
                if (folder / SEAL).exists() and (seal := (folder / SEAL).read_bytes()) != self._sent.get(folder.name):
                    for name in (*run.parts, SEAL):
                        self._store.put_file(str(folder / name), f"{self._root}/{SHARDS}/{folder.name}/{name}")
                    self._sent[folder.name] = seal

    def _send_merged(self, run: RunDirectory) -> None:
        """Send the merged files, if everything is merged."""
        if run.summary.exists():
            with reaching(self._url):
                for name in (*run.parts, EVENTS, run.summary.name):
                    self._store.put_file(str(run.path / name), f"{self._root}/{name}")
            say(f"everything is at {masked(self._url)}")

    def _seal_of(self, name: str) -> str:
        return f"{self._root}/{SHARDS}/{name}/{SEAL}"

    def _sealed_there(self) -> list[str]:
        found = self._store.glob(self._seal_of("*"))
        return sorted(path.rsplit("/", 2)[-2] for path in found)

    def _fetch_shard(self, name: str, folder: Path) -> None:
        """Copy a shard from the store, check its files, and write its seal last."""
        folder.mkdir(parents=True, exist_ok=True)
        there = f"{self._root}/{SHARDS}/{name}"
        seal = self._store.cat_file(self._seal_of(name))
        for part, sha256 in json.loads(seal)["sha256"].items():
            self._store.get_file(f"{there}/{part}", str(folder / part))
            if file_sha256(folder / part) != sha256:
                raise SpectrError(
                    f"{masked(self._url)}/{SHARDS}/{name}/{part} is damaged.", hint="Delete this shard there."
                )
        replace(folder / SEAL, [seal])


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    """Show an error instead of raising it, because another exception is already on its way."""
    try:
        yield
    except SpectrError as error:
        say(str(error))
