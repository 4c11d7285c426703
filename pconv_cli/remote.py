"""Files that are elsewhere, by URL, on object storage or the web: the only door to fsspec.

Knows URLs, what lies under one, fetching, delivering, and the folder on this machine where files are while they are
worked on: the *stage*. Does not know pictures, what is made of them, or when a file is needed.

Everybody else works with names of files as ever: `s3://bucket/in/a.png` is `STAGE/s3/bucket/in/a.png`, whether it is
there or not, so whatever holds for names holds for URLs. What people read has the URL again: see `Stage.shown`.

A result appears whole or not at all. It is finished on the stage and goes out in one put (a large one in a multipart
upload, which is nothing before it is completed), and where nothing may be replaced, on the condition that nothing is
there. Only storage that can do so takes results. With a result, in the same step, goes a note of what it was made of:
so no kill can part the two, and what others have put there has none. There is no journal.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pconv_cli import files
from pconv_cli.errors import TAKEN, ItemError, OutputError, RunError, UsageError
from pconv_cli.events import Listener

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SAME = {"s3a": "s3", "gcs": "gs"}  # one storage under two names
_ASKED = "~"  # begins the name of a folder for what a web page was asked for
_STORES = {"s3": "Metadata", "gs": "metadata"}  # who takes results, and how a put calls what goes with an object
_NOTE, _RUN = "pconv", "pconv-run"
_STATES = ("ETag", "etag", "LastModified", "mtime", "updated")  # what changes with content, the surest first
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}

T = TypeVar("T")


class Stopped(Exception):
    """A file was not fetched, or not read, to its end, for that was no longer wanted."""


def is_url(text: str) -> bool:
    """Whether a text is a URL and no name of a file."""
    return _URL.fullmatch(text) is not None


@dataclass(eq=False)
class _Used:
    """A file that some have in use: for which results, in what state it was found, and whether it has been fetched."""

    owners: set[Path] = field(default_factory=set)
    looking: threading.Lock = field(default_factory=threading.Lock)
    state: str | None = None
    fetched: bool = False


class Stage:
    """Names on this machine for files elsewhere, and the files while they are in use. Threads may share it.

    A context manager: nothing of it is left behind. Where nothing is elsewhere, it does nothing. Sent to another
    process, it is there a stage of its own for the same names.

    Files are fetched for an *owner*, the result that they are needed for, and removed when no owner needs them any
    more; but for the last, which may be the one mask of all pictures.
    """

    def __init__(self, asked: Mapping[str, str] | None = None, origin: str | None = None) -> None:
        """Begin with an empty stage; the arguments are for one in another process, which `__reduce__` makes."""
        self._root: Path | None = None
        self._asked = dict(asked or {})  # URLs with a query, by their names on the stage
        self._origin = origin
        self._systems: dict[str, Any] = {}
        self._changing = threading.Lock()
        self._files: dict[Path, _Used] = {}
        self._needs: dict[Path, list[Path]] = {}
        self._spare: Path | None = None
        if origin is not None:
            self._open()

    def __reduce__(self) -> tuple[type[Stage], tuple[object, ...]]:
        return (Stage, ()) if self._root is None else (Stage, (self._asked, str(self._root)))

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the stage; an error that ends the run is told with URLs."""
        if self._root is None:
            return
        shutil.rmtree(self._root, ignore_errors=True)  # a temporary folder that stays is no failure of the run
        if self.shown(str(error)) == str(error):
            return
        if isinstance(error, ItemError):
            raise self.shown(error) from error
        if isinstance(error, RunError):
            raise type(error)(self.shown(str(error))) from error

    @property
    def used(self) -> bool:
        """Whether anything is elsewhere."""
        return self._root is not None

    # ---------------------------------------------------------------- names

    def name(self, text: str) -> str:
        """What a file is called on the stage, if the text is a URL; else the text. Nothing is looked up.

        Raises:
            UsageError: There is no such kind of URL, a package for it is missing, or it cannot be a name.
        """
        match = _URL.fullmatch(text)
        if match is None:
            return text
        scheme, rest = match[1].lower(), match[2]
        scheme = _SAME.get(scheme, scheme)
        if scheme == "file":
            from urllib.request import url2pathname  # slow to import

            return url2pathname(rest)
        self._system(scheme, text)
        bare, mark, query = rest.partition("?") if scheme in ("http", "https") else (rest, "", "")
        parts = bare.rstrip("/").split("/")
        # Windows takes part of a name for a drive or for folders, which may lie anywhere.
        if any(part in ("", ".", "..") or Path(part).name != part for part in parts) or "\0" in bare:
            raise UsageError(f"{text}: a URL with empty parts, or such as .., cannot be worked with: rename it")
        if mark:  # one page may give many pictures, and signatures are longer than names may be
            parts.insert(-1, _ASKED + hashlib.sha256(query.encode("utf-8", "surrogateescape")).hexdigest()[:16])
        path = self._open().joinpath(scheme, *parts)
        if mark:
            self._asked["/".join((scheme, *parts))] = text
        return f"{path}{os.sep if bare.endswith('/') else ''}"

    def source(self, text: str) -> str:
        """As `name`; and all that is under the URL gets empty files on the stage, to be found there: see `clear`.

        Raises:
            UsageError: As in `name`; or it cannot be looked up.
        """
        name = self.name(text)
        path = Path(name)
        if not self.holds(path):
            return name
        url = self._url(path)
        try:
            system = self._system_of(path)
            folder = system.info(url)["type"] == "directory"
            root = system._strip_protocol(url)
            found = [one.removeprefix(f"{root}/") for one in system.find(url)] if folder else []
        except Exception as error:
            raise UsageError(f"{url}: {_why(error)}") from error
        if not folder:
            self._lay_out(path, url)
            return name
        path.mkdir(parents=True, exist_ok=True)
        for one in found:
            if not one.endswith("/") and one != root:  # some tools put such for folders
                self._lay_out(Path(self.name(f"{url}/{one}")), f"{url}/{one}")
        return name

    def target(self, text: str) -> str:
        """As `name`, for a place of results.

        Raises:
            UsageError: As in `name`; or results cannot be written there, whole or not at all.
        """
        name = self.name(text)
        if self.holds(Path(name)) and self._scheme(Path(name)) not in _STORES:
            places = " or ".join(f"{scheme}://" for scheme in _STORES)
            raise UsageError(f"{text}: results cannot be written there: give a place on {places}, or a folder")
        return name

    def clear(self) -> None:
        """Remove the empty files: what is on the stage from now on is real."""
        if self._root is not None:
            for entry in self._root.iterdir():
                shutil.rmtree(entry)

    def holds(self, path: Path) -> bool:
        """Whether a name is one of the stage."""
        return self._root is not None and str(path).startswith(f"{self._root}{os.sep}")

    def here(self, path: Path) -> Path:
        """The name that a name of the stage that this one was made of has on this one; others stay."""
        if self._origin is None or self._root is None or not path.is_relative_to(self._origin):
            return path
        return self._root / path.relative_to(self._origin)

    def shown(self, thing: T) -> T:
        """A text with URLs in place of names on the stage; so for texts in tuples and in frozen dataclasses."""
        if self._root is None:
            return thing
        change: Any = thing
        if isinstance(thing, str):
            root = f"{self._root}{os.sep}"
            asked = self._asked.get(thing.removeprefix(root).replace(os.sep, "/")) if self._asked else None
            if asked is not None:
                change = asked
            elif root in thing:
                if f"{os.sep}{_ASKED}" in thing:
                    for name in sorted(self._asked, key=len, reverse=True):
                        change = change.replace(root + name.replace("/", os.sep), self._asked[name])
                pattern = re.escape(root) + r"([a-z0-9+.-]+)" + re.escape(os.sep)
                change = re.sub(pattern, r"\1://", change)
        elif isinstance(thing, tuple):
            change = tuple(self.shown(one) for one in thing)
        elif is_dataclass(thing) and not isinstance(thing, type):
            new = {one.name: self.shown(getattr(thing, one.name)) for one in fields(thing)}
            if any(new[one.name] != getattr(thing, one.name) for one in fields(thing)):
                change = replace(thing, **new)
        elif isinstance(thing, ItemError):
            change = ItemError(self.shown(thing.path), self.shown(thing.reason))
        result: T = change
        return result

    def telling(self, emit: Listener) -> Listener:
        """A listener that hears of URLs."""
        return emit if self._root is None else lambda event: emit(self.shown(event))

    # ---------------------------------------------------------------- files

    def refuse_unreachable(self, inputs: Iterable[Path], results: Iterable[Path]) -> None:
        """Look once at every bucket that is needed, before hours of work.

        Raises:
            UsageError: One of inputs is not there, or must not be looked at.
            OutputError: The same, of results.
        """
        for paths, kind in ((results, OutputError), (inputs, UsageError)):
            known: set[tuple[str, ...]] = set()
            for path in paths:
                if not self.holds(path):
                    continue
                bucket = self._parts(path)[:2]
                if bucket[0] in _STORES and bucket not in known:
                    known.add(bucket)
                    self._look(self._open().joinpath(*bucket), path.parent, kind)

    def beside(self, path: Path) -> list[Path]:
        """Names of what lies in the same folder; none where folders cannot be listed, as on the web.

        Raises:
            ItemError: It cannot be looked at.
        """
        if not self.holds(path):
            return list(path.parent.iterdir())
        if self._scheme(path) not in _STORES:
            return []
        url = self._url(path.parent)
        try:
            found = self._system_of(path).ls(url, detail=False)
        except (FileNotFoundError, PermissionError):  # who may read a picture need not be allowed to list its folder
            return []
        except Exception as error:
            raise ItemError(url, _why(error)) from error
        return [path.with_name(name) for one in found if (name := one.rstrip("/").rpartition("/")[2])]

    def there(self, paths: Iterable[Path]) -> list[Path]:
        """Those of some names on storage that are there; nobody is asked on the web, where pages answer for anything.

        Raises:
            ItemError: One cannot be looked at.
        """
        found: list[Path] = []
        for path in paths:
            if self.holds(path) and self._scheme(path) in _STORES:
                try:
                    found += [path] if self._system_of(path).exists(self._url(path)) else []
                except PermissionError:  # nor may it be read, then
                    continue
                except Exception as error:
                    raise ItemError(self._url(path), _why(error)) from error
        return found

    def make_room(self, *needed: Path) -> str | None:
        """Make sure that files fit on this machine, before they are fetched, each as often as it is named.

        Returns:
            How much and where, in words; None if nothing is elsewhere, or nobody knows how large it is.

        Raises:
            ItemError: One cannot be looked at, or there is no room.
        """
        sizes = {path: self._size(path) for path in needed}
        total = sum(sizes[path] for path in needed)
        if not total:
            return None
        free = shutil.disk_usage(self._open()).free
        place, amount = self._open().parent, f"{total / 2**30:.1f} GiB" if total >> 30 else f"{total / 2**20:.1f} MiB"
        if total > free:
            reason = f"no room for it on this machine: {amount} are needed in {place}, {free / 2**30:.1f} GiB are free"
            raise ItemError(needed[0], f"{reason}: make room, or set TMPDIR to another folder")
        return f"{amount} in {place}"

    def fetch(self, path: Path, owner: Path, stop: Callable[[], bool] | None = None) -> None:
        """Bring a file to the stage, unless it is there, or was never elsewhere.

        Args:
            path: The file.
            owner: The result that it is needed for; itself where nobody will ask in what state it was.
            stop: Asked on the way; once it turns true, nothing more is fetched.

        Raises:
            ItemError: It cannot be had.
            Stopped: `stop` said so.
        """
        if not self.holds(path):
            return
        if self.holds(owner) and owner != path:
            self.state(path, owner)  # before: what changes meanwhile must not pass for what was fetched
        used = self._use(path, owner)
        with used.looking:
            self._fetched(path, used, stop)

    def state(self, path: Path, owner: Path) -> str:
        """A text that is another one once a file, elsewhere or here, has another content.

        Raises:
            ItemError: It cannot be had.
        """
        used = self._use(path, owner)
        with used.looking:
            if used.state is None:
                used.state = self._state(path, used)
            return used.state

    def note(self, result: Path) -> str | None:
        """What a result elsewhere was made of; empty if nobody has noted that, None if nothing is there.

        Raises:
            ItemError: It cannot be looked at.
        """
        return self._noted(result, _NOTE)

    def run(self, result: Path) -> str | None:
        """Which run has delivered a result elsewhere, as `note`."""
        return self._noted(result, _RUN)

    def _noted(self, result: Path, name: str) -> str | None:
        url = self._url(result)
        try:
            return self._system_of(result).getxattr(url, name) or ""
        except FileNotFoundError:
            return None
        except KeyError:  # gcsfs, of an object without
            return ""
        except Exception as error:
            raise ItemError(url, _why(error)) from error

    def deliver(self, result: Path, note: str, run: str = "", *, overwrite: bool) -> None:
        """Put a finished file where it belongs, whole or not at all, and with it a note, and the run's name.

        Raises:
            ItemError: It cannot be put there, or something is there already.
        """
        url = self._url(result)
        beside = {_STORES[self._scheme(result)]: {_NOTE: note} | ({_RUN: run} if run else {})}
        mode = "overwrite" if overwrite else "create"
        try:
            self._system_of(result).put_file(str(result), url, mode=mode, **beside)
        except Exception as error:
            there = None
            with suppress(ItemError):  # the first error says more
                there = None if overwrite else self.note(result)
            if there == note:  # it got through, though no answer came back, or another run has made the same
                return
            if there is not None:  # a condition that does not hold is another error for every kind of storage
                raise ItemError(url, TAKEN) from error
            raise ItemError(url, f"not written: {_why(error)}") from error

    def keep(self, result: Path) -> Path:
        """Leave a result that could not be delivered on this machine, under a name that nobody else has."""
        kept = self._open().with_name(f"{result.stem}-{secrets.token_hex(4)}{result.suffix}")
        return result.replace(kept)

    def release(self, owner: Path) -> None:
        """Remove what was needed for one result, and the result itself, from the stage."""
        if self._root is None:
            return
        with self._changing:
            if self.holds(owner):
                owner.unlink(missing_ok=True)
            for path in self._needs.pop(owner, ()):
                used = self._files[path]
                used.owners.discard(owner)
                if used.owners or path == self._spare:
                    continue
                spare, self._spare = self._spare, path
                if spare is not None and not self._files[spare].owners:
                    del self._files[spare]
                    if self.holds(spare):
                        spare.unlink(missing_ok=True)

    # ---------------------------------------------------------------- inside

    def _open(self) -> Path:
        if self._root is None:
            origin = None if self._origin is None or not Path(self._origin).is_dir() else self._origin
            try:
                self._root = Path(os.path.realpath(tempfile.mkdtemp(prefix="pconv-", dir=origin)))
            except OSError as error:
                place = error.filename or "temporary files"
                raise OutputError(f"{place}: no place for what is fetched ({error.strerror}); set TMPDIR") from error
        return self._root

    def _parts(self, path: Path) -> tuple[str, ...]:
        return path.parts[len(self._open().parts) :]

    def _scheme(self, path: Path) -> str:
        return self._parts(path)[0]

    def _url(self, path: Path) -> str:
        scheme, *rest = self._parts(path)
        return self._asked.get("/".join((scheme, *rest))) or f"{scheme}://{'/'.join(rest)}"

    def _system_of(self, path: Path) -> Any:
        return self._system(self._scheme(path), self._url(path))

    def _system(self, scheme: str, url: str) -> Any:
        """What fsspec has for URLs of a kind; for those that name a host, of that host."""
        host = scheme if scheme in _PACKAGES else url.split("/")[2]
        key = f"{scheme}://{host}"
        if key not in self._systems:
            package = _PACKAGES.get(scheme)
            if package and not os.environ.get("PCONV_DEBUG"):  # what goes wrong is told by errors
                logging.getLogger(package).setLevel(logging.CRITICAL)
            try:
                import fsspec

                self._systems[key] = fsspec.filesystem(scheme) if package else fsspec.url_to_fs(url)[0]
            except ImportError as error:
                needs = f"needs fsspec and {package}" if package else _line(error)
                more = "" if package in (None, "s3fs", "aiohttp") else f" {package}"
                raise UsageError(f"{url}: {needs}: pip install 'pconv[remote]'{more}") from error
            except ValueError as error:
                raise UsageError(f"{url}: no such kind of URL ({_line(error)}): check how it begins") from error
            except Exception as error:
                raise UsageError(f"{url}: {_why(error)}") from error
        return self._systems[key]

    def _lay_out(self, path: Path, url: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise UsageError(
                f"{url}: cannot be the name of a file on this machine ({error.strerror}): rename it, or move it away"
            ) from error

    def _look(self, bucket: Path, folder: Path, kind: type[RunError]) -> None:
        url, system = self._url(folder), self._system_of(bucket)
        try:
            if folder != bucket:
                with suppress(FileNotFoundError):  # of the folder: it will be there with the first result
                    system.info(url)
                    return
                with suppress(PermissionError):  # who may see a folder need not be allowed to see the whole
                    system.info(self._url(bucket))
                return
            system.info(url)
        except FileNotFoundError as error:
            raise kind(f"{self._url(bucket)}: there is no such bucket: check the name, or make it") from error
        except Exception as error:
            raise kind(f"{url}: {_why(error)}") from error

    def _use(self, path: Path, owner: Path) -> _Used:
        with self._changing:
            used = self._files.setdefault(path, _Used())
            if owner not in used.owners:
                used.owners.add(owner)
                self._needs.setdefault(owner, []).append(path)
            return used

    def _fetched(self, path: Path, used: _Used, stop: Callable[[], bool] | None = None) -> None:
        if used.fetched:
            return
        more = {} if stop is None else {"callback": _stopping(stop)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._system_of(path).get_file(self._url(path), str(path), **more)
        except Stopped:
            raise
        except Exception as error:
            raise ItemError(self._url(path), _why(error)) from error
        used.fetched = True

    def _size(self, path: Path) -> int:
        """Bytes of a file, elsewhere or here; 0 where nobody says."""
        if not self.holds(path):
            return path.stat().st_size if path.is_file() else 0
        url = self._url(path)
        try:
            return self._system_of(path).info(url).get("size") or 0
        except Exception as error:
            raise ItemError(url, _why(error)) from error

    def _state(self, path: Path, used: _Used) -> str:
        if self.holds(path):
            url = self._url(path)
            try:
                info = self._system_of(path).info(url)
            except Exception as error:
                raise ItemError(url, _why(error)) from error
            if tag := next((info[key] for key in _STATES if info.get(key)), None):
                return f"{info.get('size')} {tag}"
            self._fetched(path, used)
        try:
            return files.sha256(path)
        except OSError as error:
            raise ItemError(path, f"cannot be read ({error.strerror}): check the path") from error


def _stopping(stop: Callable[[], bool]) -> Any:
    """What fsspec tells of every piece that it has fetched."""
    from fsspec.callbacks import Callback

    class Stopping(Callback):  # type: ignore[misc]
        def call(self, *_: object, **__: object) -> None:
            if stop():
                raise Stopped

    return Stopping()


def _why(error: Exception) -> str:
    """Reason and way out of what a library for some storage raises: of any type, for each has its own."""
    line = _line(error)
    if isinstance(error, FileNotFoundError):
        return "not found: check the URL, and that it may be read"
    refused = str(getattr(error, "code", "")) in ("401", "403") or line.startswith("Forbidden")  # of gcsfs
    if refused or isinstance(error, PermissionError):
        return f"access is denied ({line}): check the credentials, and what they allow"
    if "credentials" in line.lower():
        return f"no credentials ({line}): set them as for the storage's own tools, AWS_ACCESS_KEY_ID for one"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room for it on this machine ({error.strerror}): free some, or set TMPDIR"
    return f"cannot be reached ({line}): check the connection and try again"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
