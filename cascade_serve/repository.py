"""The cascades of one server: loads and warms bundles aside, swaps them in, drains the old, and watches the folder."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from cascade_serve.bundle import Bundle, load_bundle
from cascade_serve.bundle_folder import Scan, Stamp, scan, stamp
from cascade_serve.engine.protocol import Engine
from cascade_serve.errors import BundleError, CascadeError, NotFoundError, UnavailableError

_log = logging.getLogger(__name__)

State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """One version of one cascade in the repository.

    Attributes:
        name: the cascade's.
        version: as a text, such as ``1``.
        state: whether it answers.
        reason: why it does not; empty when it does.
    """

    name: str
    version: str
    state: State
    reason: str = ""


class Listener(Protocol):
    """Who is told of changes, after they took effect. Called on the thread that made the change."""

    def noted(self) -> None:
        """The index, or whether the repository is ready, may have changed."""
        ...

    def swapped_in(self, served: "ServedBundle") -> None:
        """A version answers from now on."""
        ...

    def leaving(self, cascade: str) -> None:
        """A cascade takes no more requests; those inside are still being answered."""
        ...

    def removed(self, cascade: str) -> None:
        """The last request of a cascade that was let go has ended."""
        ...


class ServedBundle:
    """One version of one cascade, warm; knows how many requests hold it.

    Attributes:
        bundle: what is served.
        engine: what answers.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        self._changed = threading.Condition()
        self._num_holds = 0

    @property
    def name(self) -> str:
        """The cascade's name."""
        return self.bundle.name

    @property
    def version(self) -> int:
        """The version's number."""
        return self.bundle.version

    def __enter__(self) -> Self:
        # The repository has counted the hold already, under its own lock.
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._num_holds -= 1
            self._changed.notify_all()

    def hold(self) -> Self:
        """Count one more request; the ``with`` statement's end counts it off."""
        with self._changed:
            self._num_holds += 1
        return self

    def retire(self, timeout_s: float) -> None:
        """Wait for the requests that hold it, then close its engine; what is late is failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_holds == 0, timeout_s)
        if not self.engine.drain(0.0):
            _log.warning(
                "cascade %r version %d: requests were cut off after %.0f s", self.name, self.version, timeout_s
            )
        self.engine.close()


class BundleRepository:
    """Serves the newest version of each cascade under a folder ``<root>/<cascade>/<version>/``.

    Args:
        root: the folder.
        open_engine: makes an engine for a verified bundle; it is warmed up here.
        listener: is told of changes.
        drain_timeout_s: seconds that requests of a version get to end after another took its place.
    """

    def __init__(
        self,
        root: Path,
        open_engine: Callable[[Bundle], Engine],
        *,
        listener: Listener,
        drain_timeout_s: float = 30.0,
    ) -> None:
        self._root = root
        self._open_engine = open_engine
        self._listener = listener
        self._drain_timeout_s = drain_timeout_s
        self._lock = threading.Lock()
        self._change_lock = threading.Lock()
        """One change at a time; the lock above is only held for look-ups and swaps."""
        self._served: dict[str, ServedBundle] = {}
        self._states: dict[tuple[str, int], IndexEntry] = {}
        self._awaited: set[str] = set()
        self._unloaded: set[str] = set()
        # What was last tried of each cascade, well or badly: only a change is tried again.
        self._tried: dict[str, tuple[Path, Stamp]] = {}
        self._problem = ""
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Every cascade that was there at the start has been loaded, and at least one answers.

        A cascade whose engine has a fault does not. One that is added later makes no difference, whether it can be
        loaded or not: the others answer as before.
        """
        with self._lock:
            is_complete = not self._awaited and not self._stopped.is_set()
            return is_complete and any(not served.engine.fault for served in self._served.values())

    def acquire(self, cascade: str, version: str = "") -> ServedBundle:
        """Hold a cascade while a request runs, so that a swap waits for it; the ``with`` statement's end lets it go.

        Args:
            cascade: its name.
            version: as a text; empty is the one being served.

        Raises:
            NotFoundError: there is no such cascade, or not in that version.
            UnavailableError: it is loading, is leaving, or could not be loaded.
        """
        with self._lock:
            served = self._served.get(cascade)
            if served is None:
                raise self._absence(cascade)
            if version and version != str(served.version):
                raise NotFoundError(f"version of cascade {cascade!r}", version, [str(served.version)])
            return served.hold()

    def _absence(self, cascade: str) -> CascadeError:
        states = {entry.state for entry in self._states.values() if entry.name == cascade}
        if not states or cascade in self._unloaded:
            return NotFoundError("cascade", cascade, sorted(self._served))
        # The reason may name files, which are no caller's business; the log and the index have it.
        if "LOADING" in states:
            why = "it is loading"
        else:
            why = "it is leaving" if "UNLOADING" in states else "it could not be loaded"
        return UnavailableError(f"cascade {cascade!r} does not answer: {why}")

    def index(self) -> list[IndexEntry]:
        """List every version that was met and is still there, by name and version."""
        with self._lock:
            return [self._with_fault(self._states[key]) for key in sorted(self._states)]

    def _with_fault(self, entry: IndexEntry) -> IndexEntry:
        """Say of a version that is served whether its engine can't answer."""
        served = self._served.get(entry.name)
        if entry.state != "READY" or served is None or str(served.version) != entry.version or not served.engine.fault:
            return entry
        return replace(entry, state="UNAVAILABLE", reason=served.engine.fault)

    def load_all(self) -> None:
        """Load the newest version of every cascade in the folder.

        Raises:
            BundleError: the folder can't be read, or holds no cascade, or one that can't be loaded.
        """
        found = scan(self._root)
        self._complain("; ".join(found.unreadable.values()))
        newest = found.newest
        with self._lock:
            self._awaited = set(newest)
        for cascade, path in newest.items():
            self._note(cascade, int(path.name), "LOADING", "it waits to be loaded")
        for cascade in newest:
            self.load(cascade)

    def resume(self, versions: Mapping[str, int], unloaded: Collection[str]) -> None:
        """Load what the other processes of the server serve, then follow the folder as :meth:`refresh` does.

        Unlike :meth:`load_all` it does not stop at a newest version that can't be loaded: the others serve on too.

        Args:
            versions: cascade → the version that is served.
            unloaded: cascades that a caller has unloaded.

        Raises:
            BundleError: nothing can be loaded, though others serve something.
        """
        with self._change_lock:
            self._unloaded = set(unloaded)
            found = scan(self._root).versions
            for cascade, version in versions.items():
                for path in found.get(cascade, ()):
                    if int(path.name) == version:
                        self._try(cascade, path)
        self.refresh()
        if versions and not self._served:
            raise BundleError(f"{self._root}: none of the cascades that were served can be loaded")

    def load(self, cascade: str) -> None:
        """Load a cascade's newest version and swap it in; nothing happens if it is being served already.

        Raises:
            NotFoundError: there is no such folder.
            BundleError: its newest version can't be loaded; the version being served stays.
        """
        with self._change_lock:
            newest = scan(self._root).newest
            if cascade not in newest:
                raise NotFoundError("cascade", cascade, sorted(newest))
            self._unloaded.discard(cascade)
            self._swap_in(newest[cascade])

    def unload(self, cascade: str) -> None:
        """Drain a cascade and let it go; only :meth:`load` brings it back.

        Raises:
            NotFoundError: it is not loaded.
        """
        with self._change_lock:
            if cascade not in self._served:
                raise NotFoundError("cascade", cascade, sorted(self._served))
            self._unloaded.add(cascade)
            self._remove(cascade, "it was unloaded")

    def refresh(self) -> None:
        """Follow the folder: newer versions are swapped in, vanished cascades let go; what can't be loaded is logged.

        A version that could not be loaded is tried again once one of its files changes, such as when its copying goes
        on. A folder that can't be read or holds nothing any more, as when a mount is lost, changes nothing.
        """
        with self._change_lock:
            if self._stopped.is_set():
                return
            try:
                found = scan(self._root)
            except BundleError as error:
                self._complain(f"{error}; what is loaded is served on")
                return
            self._complain("; ".join(found.unreadable.values()))
            self._follow(found)

    def _complain(self, problem: str) -> None:
        """Log a problem once, not at every look."""
        if problem and problem != self._problem:
            _log.error("%s", problem)
        self._problem = problem

    def _follow(self, found: Scan) -> None:
        for cascade, path in found.newest.items():
            if not self._stopped.is_set() and cascade not in self._unloaded:
                self._try(cascade, path)
        for cascade in set(self._served) - set(found.versions) - set(found.unreadable):
            self._remove(cascade, "its folder has gone")
        known = {(cascade, int(path.name)) for cascade, paths in found.versions.items() for path in paths}
        known |= {(cascade, served.version) for cascade, served in self._served.items()}
        with self._lock:
            self._awaited &= set(found.versions)
            self._states = {key: entry for key, entry in self._states.items() if key in known}
        self._listener.noted()

    def _try(self, cascade: str, path: Path) -> None:
        if self._tried.get(cascade) == (path, stamp(path)):
            return
        served = self._served.get(cascade)
        try:
            self._swap_in(path)
            if served is not None and served.bundle.path == path.absolute():
                _check_unchanged(served.bundle)
        except CascadeError as error:
            _log.error("%s: %s", path, error)

    def watch(self, interval_s: float) -> None:
        """Call :meth:`refresh` every ``interval_s`` seconds, on a thread of its own, until :meth:`close`."""
        self._watcher = threading.Thread(target=self._watch, args=(interval_s,), name="repository", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop watching, and drain and close every engine."""
        self._stopped.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._change_lock:
            for cascade in list(self._served):
                self._remove(cascade, "the server stops")

    def _watch(self, interval_s: float) -> None:
        while not self._stopped.wait(interval_s):
            try:
                self.refresh()
            except Exception:  # noqa: BLE001  # the thread's one boundary: what is loaded is served on, and watched
                _log.exception("following %s failed", self._root)

    def _swap_in(self, path: Path) -> None:
        cascade, version = path.parent.name, int(path.name)
        # Taken before the files are read: what changes meanwhile is tried again.
        self._tried[cascade] = path, stamp(path)
        served = self._served.get(cascade)
        if served is not None and served.version == version:
            return
        self._note(cascade, version, "LOADING", "it is loading")
        try:
            fresh = self._open(path)
        except Exception as error:
            self._note(cascade, version, "UNAVAILABLE", str(error))
            raise
        with self._lock:
            self._served[cascade] = fresh
            self._awaited.discard(cascade)
        self._note(cascade, version, "READY", "")
        _log.info("cascade %r version %d is served", cascade, version)
        self._listener.swapped_in(fresh)
        if served is not None:
            reason = f"version {version} took its place"
            self._note(cascade, served.version, "UNLOADING", reason)
            self._retire(served, reason)

    def _open(self, path: Path) -> ServedBundle:
        bundle = load_bundle(path)
        engine = self._open_engine(bundle)
        try:
            engine.warm_up()
        except CascadeError as error:
            engine.close()
            raise BundleError(f"{path}: warm-up failed: {error}") from error
        return ServedBundle(bundle, engine)

    def _remove(self, cascade: str, reason: str) -> None:
        with self._lock:
            served = self._served.pop(cascade)
        self._note(cascade, served.version, "UNLOADING", reason)
        self._listener.leaving(cascade)
        self._retire(served, reason)
        self._listener.removed(cascade)
        _log.info("cascade %r is not served any more: %s", cascade, reason)

    def _retire(self, served: ServedBundle, reason: str) -> None:
        served.retire(self._drain_timeout_s)
        self._note(served.name, served.version, "UNAVAILABLE", reason)

    def _note(self, cascade: str, version: int, state: State, reason: str) -> None:
        with self._lock:
            self._states[cascade, version] = IndexEntry(name=cascade, version=str(version), state=state, reason=reason)
        self._listener.noted()


def _check_unchanged(bundle: Bundle) -> None:
    """Versions are immutable, and the engine holds what was loaded: a change on disk must not pass unseen.

    Raises:
        BundleError: the files are not those that were loaded.
    """
    change = "its files are not those that are served; publish what has changed as a new version"
    try:
        if load_bundle(bundle.path).plan == bundle.plan:
            return
    except BundleError as error:
        raise BundleError(f"{change} ({error})") from error
    raise BundleError(change)
