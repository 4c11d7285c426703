"""What is to be done, as paths: which picture, with which mask, to which file; from folders, or as a list says.

Knows names: folders, suffixes, how a mask is called, what counts as the same name on another system.
Does not know what is inside a file, which formats exist (the caller says which suffixes are readable), whether an
output already exists or may be replaced, or who shows the messages.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Literal

from pconv_cli import files
from pconv_cli.errors import NothingToDo, UsageError
from pconv_cli.manifest import Row

_MASK_WORD = re.compile(r"(.+)[_.-]mask", re.IGNORECASE | re.DOTALL)
_TEXT_NUMBER = re.compile(r"([^0-9]*)([0-9]*)")
_COMPANIONS = (".aux.xml", ".tfw", ".tifw", ".tiffw", ".wld")  # of pictures, which take them along
_WAYS_OUT = {
    ".dpx": "frames of .dpx become PNGs with ffmpeg -i shot_%04d.dpx shot_%04d.png",
    ".exr": "frames of .exr become TIFFs of floats with oiiotool shot.exr -d float -o shot.tif, one by one",
}
_SEPARATORS = tuple(sorted({"/", os.sep}))
# Suffixes that are one format under several spellings; only used to tell whether two requests contradict each other.
_SPELLINGS = {".jpg": ".jpeg", ".jpe": ".jpeg", ".jfif": ".jpeg", ".tif": ".tiff"}

NaturalKey = tuple[tuple[tuple[str, int], ...], str, str]


@dataclass(frozen=True)
class Job:
    """One picture to restore.

    Attributes:
        image: The picture.
        mask: Its mask, or None where none was found: the caller reports it as one failed item.
        output: The file to write.
        name: What messages and reports call it: the path relative to IN, with forward slashes.
        filled: Where to save a mask of what was restored, or None.
        confidence: Where to save a map of how far that is from what is known, or None.
        found: Where to save the mask of what is detected, or None.
        wanted: Where a mask would have been found, or None where there is one, or none was looked for.
    """

    image: Path
    mask: Path | None
    output: Path
    name: str
    filled: Path | None = None
    confidence: Path | None = None
    found: Path | None = None
    wanted: Path | None = None

    @property
    def maps(self) -> tuple[Path, ...]:
        """Where maps are to be saved, of which a mask is one."""
        return tuple(path for path in (self.filled, self.confidence, self.found) if path is not None)


@dataclass(frozen=True)
class JobList:
    """Everything that a command line asks for.

    Attributes:
        jobs: In natural order, folder by folder, or in that of a list.
        home: The folder that holds all results; of the first of them where a list spreads them too far for that.
        unused_masks: Files in the masks folder that no picture uses; always empty where IN is a single file.
        skipped: How many files in IN are no pictures, by suffix (hidden ones are not counted).
        skipped_masks: The same of the masks folder, where a picture has found no mask there.
        masks: How many files there are in the masks folder.
        in_output: How many pictures lie in an OUT inside IN, where none are looked for, besides results.
        unclear: Pictures that several masks fit, which are then no jobs, by name: the file, and what there is to say.
    """

    jobs: tuple[Job, ...]
    unused_masks: tuple[Path, ...]
    skipped: Mapping[str, int]
    home: Path
    several: bool = True
    masks: int = 0
    in_output: int = 0
    unclear: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    skipped_masks: Mapping[str, int] = field(default_factory=dict)

    @property
    def unused(self) -> str:
        """What there is to say of masks that no picture uses; empty where there is none."""
        more = f" and {len(self.unused_masks) - 1} more" if len(self.unused_masks) > 1 else ""
        return f"{self.unused_masks[0]}{more}: no picture pairs with it, so not used" if self.unused_masks else ""

    @property
    def left_out(self) -> str:
        """What there is to say of files that are no pictures; empty where there is none."""
        both = (_left_out(self.skipped), _left_out(self.skipped_masks, " of the masks"))
        return "; ".join(filter(None, both))

    def first(self, count: int) -> JobList:
        """No more than the first few."""
        return replace(self, jobs=self.jobs[:count], unused_masks=())


@dataclass(frozen=True)
class _File:
    """A picture or mask file: as the user spelled it, relative to the folder that was searched, and without links."""

    path: Path
    relative: PurePath
    real: Path

    @cached_property
    def stem(self) -> str:
        """Relative path without the suffix, NFC: macOS stores decomposed accents, other systems composed ones."""
        return unicodedata.normalize("NFC", self.relative.with_suffix("").as_posix())

    @cached_property
    def name(self) -> str:
        """Relative path with the suffix, NFC."""
        return unicodedata.normalize("NFC", self.relative.as_posix())


@dataclass
class _Candidates:
    """Masks for one spelling of one stem: those that are called as it is, and those that say that they are masks."""

    plain: list[_File] = field(default_factory=list)
    worded: list[_File] = field(default_factory=list)


def natural_key(name: str) -> NaturalKey:
    """Sort key for a file or folder name: img2 before img10, capitals and small letters together.

    Args:
        name: One name, without folders.

    Returns:
        A key; different names have different keys, so the order is the same on every machine.
    """
    pure = PurePath(name)
    # The stem is compared before the suffix, or "img2.png" would come before "img.png".
    pieces = _TEXT_NUMBER.findall(_fold(pure.stem))
    return tuple((text, int(digits) if digits else -1) for text, digits in pieces), _fold(pure.suffix), name


def find_jobs(
    source: Path,
    masks: Path | None,
    output: Path | str,
    *,
    suffixes: frozenset[str],
    out_suffix: str | None = None,
    apart: Sequence[Path] = (),
    own: Sequence[Path] = (),
    full_names: bool = False,
    lenient: bool = False,
) -> JobList:
    """Pair pictures with masks and give each an output, without opening or writing a file.

    Args:
        source: A folder (searched with its subfolders) or one picture.
        masks: A folder that mirrors `source`, or one mask for all pictures; None where pictures need none.
        output: A folder or, for a single picture, a file. Pass the user's own text where a closing separator should
            count: `Path` drops it.
        suffixes: Readable picture suffixes, lower case, with the dot.
        out_suffix: Suffix of all results, such as ".png"; None keeps each picture's own.
        apart: Folders for what is saved beside results: no pictures are looked for there.
        full_names: With `out_suffix`, pictures that only their suffixes tell apart keep those: a.tif.png, a.jpg.png.
        own: Folders whose files are no pictures even where links lead to them.
        lenient: Whether pictures that several masks fit are left out, and told of in `unclear`.

    Returns:
        The jobs. A picture without a mask is among them, with `mask` None.

    Raises:
        UsageError: Paths are missing, a pairing is ambiguous and not `lenient`, or a result would fall on another
            result, a picture or a mask, or among them.
        NothingToDo: There is no picture in `source`.
    """
    source_is_folder = _check_input(source, suffixes, "the pictures") == "folder"
    masks_are_folder = masks is not None and _check_input(masks, suffixes, "the masks") == "folder"
    skip = [_real(path) for path in (source, masks, Path(output)) if path is not None]
    if source_is_folder:
        _refuse_mixing(output, source, masks if masks_are_folder else None)
    for folder in apart:
        if any(_same(_real(folder), place) for place in skip):
            raise UsageError(f"{folder}: holds pictures, masks or results: give what is saved a folder of its own")
    skip += map(_real, apart)
    pictures, skipped = _search(source, skip, suffixes) if source_is_folder else ([_single(source)], {})
    if own:
        written = [_real(place) for place in own]
        pictures = [picture for picture in pictures if not any(map(picture.real.is_relative_to, written))]
    found: list[_File] = []
    fits: list[list[_File]] = [[] for _ in pictures]
    unread: Mapping[str, int] = {}
    if masks is not None and masks_are_folder:
        pictures, found, fits, unread = _from_folder(pictures, source, masks, skip, suffixes)
    elif masks is not None:
        pictures, found, fits = _from_one_mask(pictures, source, masks)
    if not pictures:
        besides = f"; {told}" if (told := _left_out(skipped)) else ""
        raise NothingToDo(f"no pictures in {source}: looked for {_listed(suffixes)}{besides}")

    unclear = {
        picture.relative.as_posix(): (
            picture.path, f"two masks fit, {fit[0].path} and {fit[1].path}: keep one, rename or move the other",
        )
        for picture, fit in zip(pictures, fits, strict=True)
        if len(fit) > 1
    }  # fmt: skip
    if unclear and not lenient:
        (path, reason), *others = unclear.values()
        few = ", ".join(str(path) for path, _ in others[:3])
        more = f"; the same of {len(others)} more: {few}{', ...' * (len(others) > 3)}" if others else ""
        raise UsageError(f"{path}: {reason}{more}")
    targets = _targets(pictures, output, suffixes, out_suffix, source_is_folder, full_names)
    jobs = tuple(
        Job(
            picture.path, fit[0].path if fit else None, target, picture.relative.as_posix(),
            wanted=None if fit or masks is None else masks / picture.relative.with_suffix(".png"),
        )
        for picture, fit, target in zip(pictures, fits, targets, strict=True)
        if len(fit) < 2
    )  # fmt: skip
    _check_outputs(jobs, [*pictures, *found])
    used = {mask.path for fit in fits for mask in fit}
    unused = tuple(mask.path for mask in found if mask.path not in used) if source_is_folder else ()
    home = targets[0].parent if targets[0] == Path(output) else Path(output)
    return JobList(jobs, unused, skipped, home, source_is_folder, len(found), unclear=unclear, skipped_masks=unread)


def among(source: Path, output: Path, suffixes: frozenset[str], apart: Sequence[Path]) -> tuple[Path, ...]:
    """Pictures in a folder for results that lies inside IN, where `find_jobs` looks for none.

    Args:
        source: IN.
        output: The folder for results.
        suffixes: As in `find_jobs`.
        apart: Folders for masks and the like, which are not looked into.

    Raises:
        UsageError: A folder cannot be opened.
    """
    outer, inner = _real(source), _real(output)
    if not (source.is_dir() and inner.is_dir() and inner.is_relative_to(outer)):
        return ()
    if any(part.startswith(".") for part in inner.relative_to(outer).parts):  # nor would any be looked for otherwise
        return ()
    return tuple(file.path for file in _search(output, [_real(path) for path in apart], suffixes)[0])


def listed_jobs(
    rows: Sequence[Row], output: str | None, *, suffixes: frozenset[str], out_suffix: str | None
) -> JobList:
    """The same for a list: each row names a picture, its mask and the file to write.

    Args:
        rows: What the list holds; relative names start from the current folder.
        output: Folder for the results of rows that name no file to write.
        suffixes: As in `find_jobs`.
        out_suffix: As in `find_jobs`; it does not touch the names that rows give.

    Returns:
        The jobs, in the order of the list. What is not there fails later, as one item.

    Raises:
        UsageError: A row names no file to write and there is no folder, or a result would fall on another result, a
            picture or a mask.
    """
    if output is not None and _kind(Path(output)) == "file":
        raise UsageError(f"{output}: is a file, but the results need a folder: give the name of a folder")
    jobs: list[Job] = []
    inputs: dict[str, _File] = {}
    for row in rows:
        image, mask = Path(row.image), None if row.mask is None else Path(row.mask)
        if row.out is not None:
            target = Path(row.out)
            if not _is_picture(target, suffixes):
                raise UsageError(f"line {row.line}: {target}: not a format that can be written: {_listed(suffixes)}")
            _check_format(target, out_suffix)
        elif image.name in ("", ".."):
            raise UsageError(f"line {row.line}: {row.image}: a folder, not a picture: name the file")
        elif output is not None:
            target = Path(output) / (image.name if out_suffix is None else image.with_suffix(out_suffix).name)
        else:
            raise UsageError(
                f"line {row.line}: no file to write for {image}: fill the column out, or give a folder OUT"
            )
        jobs.append(Job(image, mask, target, row.image))
        inputs |= {str(path): _single(path) for path in (image, mask) if path is not None and str(path) not in inputs}
    _check_outputs(jobs, list(inputs.values()))
    return JobList(tuple(jobs), (), {}, _common([job.output for job in jobs]) if output is None else Path(output))


def with_maps(todo: JobList, filled: Path | None, confidence: Path | None, found: Path | None) -> JobList:
    """Give jobs a place for each map, in a folder of the maps' own: that of their result, or for masks their own.

    Args:
        todo: The jobs.
        filled: Folder for masks of what was restored; None: none are saved.
        confidence: Folder for maps of how far that is from what is known; None: none are saved.
        found: Folder for masks of what is detected, which pair with the pictures; None: none are saved.

    Raises:
        UsageError: A map would fall on another, a picture, a mask or a result.
    """
    if filled is confidence is found is None:
        return todo
    base = _real(todo.home)
    places = [_real(job.output.parent) / job.output.name for job in todo.jobs]
    if not all(place.is_relative_to(base) for place in places):
        try:
            base = Path(os.path.commonpath([place.parent for place in places]))
        except ValueError as error:
            raise UsageError("results lie on several drives: maps of them would have no common order") from error

    def beside(folder: Path | None, place: Path) -> Path | None:
        return None if folder is None else folder / place.relative_to(base).with_suffix(".png")

    def named(job: Job) -> Path | None:
        name = PurePath(job.name)
        if name.is_absolute() or ".." in name.parts:  # a list may name pictures anywhere
            name = PurePath(name.name)
        return None if found is None else found / name.with_suffix(".png")

    jobs = tuple(
        replace(job, filled=beside(filled, place), confidence=beside(confidence, place), found=named(job))
        for job, place in zip(todo.jobs, places, strict=True)
    )
    known = {path for job in jobs for path in (job.image, job.mask, job.output) if path is not None}
    try:
        _check_outputs([replace(job, output=path) for job in jobs for path in job.maps], list(map(_single, known)))
    except UsageError as error:
        raise UsageError(f"{error} (of what is saved beside the results)") from error
    return replace(todo, jobs=jobs)


def _fold(text: str) -> str:
    """The form in which names are one to systems that ignore case and composition.

    lower() and not casefold(): most systems keep "straße" and "strasse" apart, and a folder may well hold both.
    """
    return unicodedata.normalize("NFC", text).lower()


def _common(outputs: Sequence[Path]) -> Path:
    """The folder that holds all results of a list; that of the first where it is a root, or must not be written to."""
    folders = [_real(output.parent) for output in outputs]
    if all(folder.is_relative_to(folders[0]) for folder in folders):
        return outputs[0].parent
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:  # on several drives
        return outputs[0].parent
    writable = _kind(common) is None or os.access(common, os.W_OK | os.X_OK)
    return common if writable and common != common.parent else outputs[0].parent


def _real(path: Path) -> Path:
    # Not Path.resolve(): before Python 3.13 it raises on a link that points at itself.
    return Path(os.path.realpath(path))


def _same(first: Path, second: Path) -> bool:
    """Whether two real paths are one place; asks the file system where only case or composition differs."""
    if first == second:
        return True
    if _fold(str(first)) != _fold(str(second)):
        return False
    try:
        return first.samefile(second)
    except OSError:
        return False


def _kind(path: Path) -> Literal["folder", "file"] | None:
    """What stands at `path`; None where nothing can be found there."""
    try:
        if path.is_dir():
            return "folder"
        return "file" if path.exists() else None
    except OSError:
        return None


def _left_out(skipped: Mapping[str, int], whence: str = "") -> str:
    """What there is to say of files that are no pictures: how many of each kind, and the way out where one is known."""
    if not skipped:
        return ""
    kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(skipped.items()))
    ways_out = "".join(f" ({way_out})" for suffix, way_out in _WAYS_OUT.items() if suffix in skipped)
    return f"left out{whence}, for they are in no format that can be read: {kinds}{ways_out}"


def _listed(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))


def _is_picture(path: PurePath, suffixes: frozenset[str]) -> bool:
    return path.suffix.lower() in suffixes


def _check_input(path: Path, suffixes: frozenset[str], role: str) -> Literal["folder", "file"]:
    kind = _kind(path)
    if kind is None:
        raise UsageError(f"{path}: not found; {role} are looked for there: check the path and that you may read it")
    if kind == "file" and not _is_picture(path, suffixes):
        way_out = _WAYS_OUT.get(path.suffix.lower())
        other = f"not a picture that can be read: {way_out or f'give a folder, or one of {_listed(suffixes)}'}"
        raise UsageError(f"{path}: {files.why_no_picture(path) or other}")
    return kind


def _single(path: Path) -> _File:
    return _File(path, PurePath(path.name), _real(path))


def _order(file: _File) -> tuple[tuple[NaturalKey, ...], NaturalKey]:
    """Natural order, folder by folder: the files of a folder stand together, before those of its subfolders."""
    *folders, name = file.relative.parts
    return tuple(natural_key(folder) for folder in folders), natural_key(name)


def _search(
    root: Path, skip: Sequence[Path], suffixes: frozenset[str], *, deep: bool = True
) -> tuple[list[_File], Mapping[str, int]]:
    """Pictures below `root` in natural order, and how many files are none, by suffix; `skip` is not entered."""
    files: list[_File] = []
    others: Counter[str] = Counter()
    # Each folder comes with the real paths that lead to it: one that holds any of them would be a loop.
    pending: list[tuple[Path, PurePath, tuple[Path, ...]]] = [(root, PurePath(), (_real(root),))]
    while pending:
        folder, relative, chain = pending.pop()
        for entry in _entries(folder):
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                real = _real(path)
                loop = any(above.is_relative_to(real) for above in chain)
                if deep and not loop and not any(_same(real, place) for place in skip):
                    pending.append((path, relative / entry.name, (*chain, real)))
            # A link that leads nowhere still counts, so that it fails with its name instead of going unnoticed.
            elif not (entry.is_symlink() or entry.is_file()):
                others["no file but a pipe or a device"] += 1
            elif _is_picture(path, suffixes):
                real = _real(path) if entry.is_symlink() else chain[-1] / entry.name
                files.append(_File(path, relative / entry.name, real))
            elif not entry.name.lower().endswith(_COMPANIONS):
                others[PurePath(entry.name).suffix.lower()] += 1
    return sorted(files, key=_order), others


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        # Going on would leave its pictures out without a word.
        raise UsageError(
            f"{folder}: cannot be opened ({error.strerror}): make it readable, or move it elsewhere"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points at itself
        return False


def _from_folder(
    pictures: list[_File], source: Path, masks: Path, skip: Sequence[Path], suffixes: frozenset[str]
) -> tuple[list[_File], list[_File], list[list[_File]], Mapping[str, int]]:
    """The pictures that are no masks themselves, all masks of the folder, and the masks that fit each picture.

    Last where one has none: how many files of the folder are in no format that can be read, by suffix.
    """
    others: Mapping[str, int] = {}
    deep = source.is_dir()
    beside = _same(_real(masks), _real(source if deep else source.parent))
    if beside and deep:
        pictures, found = _set_masks_apart(pictures)
    else:
        found, others = _search(masks, skip, suffixes, deep=deep)
    fits = _pair(pictures, found, plain=not beside)
    return pictures, found, fits, {} if all(fits) else others


def _from_one_mask(
    pictures: list[_File], source: Path, mask: Path
) -> tuple[list[_File], list[_File], list[list[_File]]]:
    """As `_from_folder`, for one mask file that serves all pictures and may lie among them."""
    found = _single(mask)
    kept = [picture for picture in pictures if not _same(picture.real, found.real)]
    if not kept and not source.is_dir():
        raise UsageError(f"{mask}: given both as the picture and as its mask: give the mask as a second file")
    return kept, [found], [[found] for _ in kept]


def _set_masks_apart(files: Sequence[_File]) -> tuple[list[_File], list[_File]]:
    """Split the files of a folder that holds both: b_mask.* is a mask where b.* exists, else a picture."""
    stems = {_fold(file.stem) for file in files}
    pictures: list[_File] = []
    masks: list[_File] = []
    for file in files:
        match = _MASK_WORD.fullmatch(_fold(file.stem))
        (masks if match and match[1] in stems else pictures).append(file)
    return pictures, masks


def _pair(pictures: Sequence[_File], masks: Sequence[_File], *, plain: bool) -> list[list[_File]]:
    """The masks that fit each picture: none, one, or more than can be meant.

    Args:
        pictures: Pictures, with paths relative to IN.
        masks: Mask files, with paths relative to the masks folder.
        plain: Whether the picture's own stem is a mask's name too. Where pictures and masks share a folder it is
            not: there b.png beside b.jpg is a second picture.
    """
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        spellings[_fold(picture.stem)].add(picture.stem)
    by_stem: defaultdict[str, defaultdict[str, _Candidates]] = defaultdict(lambda: defaultdict(_Candidates))
    for mask in masks:
        if plain:
            by_stem[_fold(mask.stem)][mask.stem].plain.append(mask)
        another = plain and _fold(mask.stem) in spellings  # a picture is itself called a_mask
        if not another and (match := _MASK_WORD.fullmatch(mask.stem)):
            by_stem[_fold(match[1])][match[1]].worded.append(mask)

    fits: list[list[_File]] = []
    for picture in pictures:
        folded = _fold(picture.stem)
        candidates: dict[str, _Candidates] = by_stem.get(folded) or {}
        full: list[_File] = []  # a.tif.png
        if plain and _fold(picture.name) not in spellings and _fold(picture.name) in by_stem:
            full = by_stem[_fold(picture.name)].get(picture.name, _Candidates()).plain
        # Another spelling is taken only where there is one picture and one mask that can be meant.
        alone = len(candidates) == len(spellings[folded]) == 1
        spelled = next(iter(candidates.values())) if alone else candidates.get(picture.stem, _Candidates())
        fits.append([*spelled.plain, *spelled.worded, *full])
    return fits


def _targets(
    pictures: Sequence[_File],
    output: Path | str,
    suffixes: frozenset[str],
    out_suffix: str | None,
    source_is_folder: bool,
    full_names: bool,
) -> list[Path]:
    """The file to write for each picture."""
    place = Path(output)
    kind = _kind(place)
    closed = os.fspath(output).endswith(_SEPARATORS)
    if not source_is_folder and kind != "folder" and not closed:
        if _is_picture(place, suffixes):
            _check_format(place, out_suffix)
            return [place]
        if re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]{1,4}", place.suffix):
            known = _listed(suffixes)
            raise UsageError(f"{place}: not a format that can be written: use {known}, or end a folder's name with /")
    if kind == "file" and not source_is_folder:
        raise UsageError(f"{place}: is a file whose name tells no format: use {_listed(suffixes)}, or a folder")
    if kind == "file":
        raise UsageError(f"{place}: is a file, but the results need a folder: give the name of a folder")
    if source_is_folder and kind != "folder" and not closed and _is_picture(place, suffixes):
        raise UsageError(f"{place}: is a picture's name, but results of a folder need a folder: end its name with /")
    if out_suffix is None:
        return [place / picture.relative for picture in pictures]
    times = Counter(_fold(picture.stem) for picture in pictures)
    alone = {stem for stem, count in times.items() if count == 1 or not full_names}
    return [
        place / (file.relative.with_suffix(out_suffix) if _fold(file.stem) in alone else f"{file.relative}{out_suffix}")
        for file in pictures
    ]


def _refuse_mixing(output: Path | str, pictures: Path, masks: Path | None) -> None:
    """Make sure that the results of a folder do not get among what the next run would read."""
    for folder, what in ((pictures, "pictures"), (masks, "masks")):
        if folder is not None and _same(_real(Path(output)), _real(folder)):
            which = "IN" if folder is pictures else "the folder of masks"
            raise UsageError(f"{output}: is {which} itself: what is written there would be {what}: choose another OUT")


def _check_format(target: Path, out_suffix: str | None) -> None:
    if out_suffix is None:
        return
    asked, named = out_suffix.lower(), target.suffix.lower()
    if _SPELLINGS.get(asked, asked) != _SPELLINGS.get(named, named):
        raise UsageError(f"{target}: its name says {named}, the format asked for is {asked}: change one of the two")


def _check_outputs(jobs: Sequence[Job], inputs: Sequence[_File]) -> None:
    """Refuse results that fall on each other, on a picture or on a mask."""
    guarded: defaultdict[str, list[_File]] = defaultdict(list)
    for file in inputs:
        guarded[_fold(str(file.real))].append(file)
    writers: dict[str, Job] = {}
    for job in jobs:
        real = _real(job.output)
        folded = _fold(str(real))
        for file in guarded.get(folded, ()):
            if _same(real, file.real):
                raise UsageError(
                    f"{job.image}: its result would be written over {file.path}: choose another place for the results"
                )
        other = writers.setdefault(folded, job)
        if other is not job:
            raise _clash(other, job)


def _clash(first: Job, second: Job) -> UsageError:
    both = f"{first.image} and {second.image}"
    way_out = "rename one of the two, or restore them into different folders"
    if first.output == second.output:
        return UsageError(f"{both}: both results would be {first.output}: {way_out}")
    return UsageError(
        f"{both}: the results {first.output} and {second.output} are one file to systems that ignore case or the way "
        f"accents are stored: {way_out}"
    )
