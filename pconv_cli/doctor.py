"""Finds out what this machine can do: libraries, memory, devices, codecs, weights, and what will be slow.

It tries things, where it can, by the very doors that a run goes through: a tile is filled, files are written and read
back, sums are computed. It knows which exit code the findings mean. It does not know how anyone shows them.

A look that fails is a finding like others: no library is imported when this module loads, and no error leaves it.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pconv_cli import __version__, _jpeg
from pconv_cli.errors import ExitCode, ItemError
from pconv_cli.files import quietly
from pconv_cli.process import memory_available

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = 512
"""Side of the tile that is filled on trial, pixels."""
LITTLE_MEMORY = 2 * 2**30
"""Free bytes below which large pictures may not fit beside the network."""
LITTLE_ROOM = 256 * 2**20
"""Free bytes in the temporary folder below which that is worth a word."""
_HEEDED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "GDAL_CACHEMAX", "TMPDIR")

# Name for people, module, what cannot be done without it.
_LIBRARIES = (
    ("NumPy", "numpy", "nothing works"),
    ("torch", "torch", "nothing can be computed"),
    ("Pillow", "PIL", "pictures can be neither read nor written"),
    ("safetensors", "safetensors", "no weights can be read"),
    ("rasterio", "rasterio", "no TIFF can be restored, nothing can be tiled, and `pconv evaluate` has no fillnodata"),
    ("OpenCV", "cv2", "no `--detect`, no `pconv mask --from infrared`, no telea and ns in `pconv evaluate`"),
    ("jpeglib", "jpeglib", "a JPEG is encoded again as a whole, not only where it was damaged"),
)

# Name for people, GDAL's driver, type of the pixels, creation options. What `pconv tile` writes is needed, and what it
# cannot patch it still reads where the library was built so.
_TILE_CODECS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("TIFF uncompressed", "GTiff", "uint8", {}),
    ("TIFF 16 bit", "GTiff", "uint16", {}),
    ("TIFF deflate", "GTiff", "uint8", {"compress": "deflate"}),
    ("TIFF LZW", "GTiff", "uint8", {"compress": "lzw"}),
    ("TIFF PackBits", "GTiff", "uint8", {"compress": "packbits"}),
    ("TIFF Zstandard", "GTiff", "uint8", {"compress": "zstd"}),
    ("TIFF JPEG", "GTiff", "uint8", {"compress": "jpeg", "photometric": "ycbcr"}),
    ("BigTIFF", "GTiff", "uint8", {"bigtiff": "yes"}),
    ("TIFF LZMA", "GTiff", "uint8", {"compress": "lzma"}),
    ("TIFF LERC", "GTiff", "uint8", {"compress": "lerc"}),
    ("TIFF WebP", "GTiff", "uint8", {"compress": "webp", "webp_lossless": True}),
    ("PNG 8 bit", "PNG", "uint8", {}),
    ("PNG 16 bit", "PNG", "uint16", {}),
    ("JPEG", "JPEG", "uint8", {}),
    ("WebP", "WEBP", "uint8", {"lossless": True}),
    ("BMP", "BMP", "uint8", {}),
    ("JPEG 2000", "JP2OpenJPEG", "uint8", {"quality": 100, "reversible": True}),
)
_EXTRA = {"TIFF LZMA", "TIFF LERC", "TIFF WebP", "JPEG 2000"}
_LOSSY = {"TIFF JPEG", "JPEG"}
_CLOSE = 24  # mean difference, of 255, up to which a lossy codec is taken to work


@dataclass(frozen=True)
class Library:
    """One library.

    Attributes:
        name: As people call it.
        version: None where it cannot be imported.
        fault: Why not, and the way out; None where it can.
        without: What cannot be done without it.
    """

    name: str
    version: str | None
    fault: str | None
    without: str


@dataclass(frozen=True)
class Machine:
    """What there is to compute with, apart from GPUs. None stands for what this system does not tell.

    Attributes:
        system: Name and version of the system.
        cpu: Model of the processor.
        cores: Cores of the machine.
        usable: Those that this process may run on.
        quota: Cores' worth of time that a container or control group grants.
        memory: Bytes of memory.
        memory_free: Bytes of it that are available.
        memory_limit: Bytes that a container or control group grants.
        temp: The folder for temporary files.
        temp_free: Free bytes there.
        environment: Variables that change how pconv or its libraries work.
        fault: What of this could not be found out, and why.
    """

    system: str = ""
    cpu: str = ""
    cores: int = 1
    usable: int = 1
    quota: float | None = None
    memory: int | None = None
    memory_free: int | None = None
    memory_limit: int | None = None
    temp: str = ""
    temp_free: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Gpu:
    """A CUDA or ROCm device that torch sees: as `--device` calls it, its model, bytes of memory, or what is wrong."""

    device: str
    model: str = ""
    memory: int | None = None
    memory_free: int | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Computing:
    """Where and how is computed when nothing is asked for.

    Attributes:
        device: What `--device auto` takes; empty where nothing can be computed.
        precision: What `--precision auto` takes there.
        precision_reason: Why.
        threads: Threads that torch uses on the CPU.
        cpu_bf16: Whether the CPU computes in bf16.
        mps: Whether there is a Metal device.
        build: What this build of torch is made for: "CPU", "CUDA 12.8", "ROCm 6.4".
        gpus: The GPUs that torch can use.
        gpus_unused: GPUs that the system has, as its driver names them, where torch can use none.
        why_unused: Why not, as far as torch says.
        rate: Tiles of `TILE` pixels a side that the default network fills in a second; None if that failed. Measured
            with one tile, and taken to be so on every core.
        fault: Why nothing can be computed.
    """

    device: str = ""
    precision: str = ""
    precision_reason: str = ""
    threads: int = 0
    cpu_bf16: bool = False
    mps: bool = False
    build: str = ""
    gpus: tuple[Gpu, ...] = ()
    gpus_unused: tuple[str, ...] = ()
    why_unused: str = ""
    rate: float | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Network:
    """Weights that came with pconv: whether they are the default, and what is wrong with the file (None: nothing)."""

    name: str
    default: bool
    fault: str | None


@dataclass(frozen=True)
class Codec:
    """A format that was written and read back.

    Attributes:
        name: Format and variant.
        command: "restore" or "tile", whose way to read and write was tried.
        needed: Whether pconv promises it; what is not needed is read where a library happens to be built so.
        fault: What went wrong; None: nothing.
    """

    name: str
    command: str
    needed: bool
    fault: str | None


@dataclass(frozen=True)
class Findings:
    """All that was found out."""

    pconv: str
    python: str
    libraries: tuple[Library, ...]
    machine: Machine
    computing: Computing
    networks: tuple[Network, ...]
    codecs: tuple[Codec, ...]

    @property
    def exit_code(self) -> ExitCode:
        """What hinders most: nothing to compute with, no sound weights, then a codec that pconv promises."""
        if self.computing.fault:
            return ExitCode.DEVICE
        if any(network.fault for network in self.networks) or not any(network.default for network in self.networks):
            return ExitCode.WEIGHTS
        return ExitCode.SOME_FAILED if any(c.needed and c.fault for c in self.codecs) else ExitCode.OK

    def document(self) -> dict[str, Any]:
        """All of it for JSON, with the remarks and the exit code."""
        return {**asdict(self), "remarks": list(remarks(self)), "exit_code": int(self.exit_code)}


def examine() -> Findings:
    """Look at everything; takes a few seconds, most of them for importing libraries."""
    networks = _networks()
    sound = any(network.default and not network.fault for network in networks)
    return Findings(
        pconv=__version__,
        python=platform.python_version(),
        libraries=tuple(_library(*one) for one in _LIBRARIES),
        machine=_guarded(_machine, lambda fault: Machine(fault=fault)),
        computing=_guarded(lambda: _computing(None if sound else "none"), lambda fault: Computing(fault=fault)),
        networks=networks,
        codecs=(
            *_guarded(_restore_codecs, lambda fault: (Codec("pictures", "restore", True, fault),)),
            *_guarded(_tile_codecs, lambda fault: (Codec("pictures", "tile", True, fault),)),
        ),
    )


def remarks(found: Findings) -> Iterator[str]:
    """Say what will be slow and why, and what is missing: a sentence each, only those that apply."""
    machine, computing = found.machine, found.computing
    yield from _remarks_on_gpus(found)
    if computing.device == "cpu":
        if computing.rate:
            rate = f"expect about {computing.rate:.1f} tiles of {TILE} x {TILE} px a second"
            yield f"no GPU that torch can use, so {_cores(computing.threads)} of the CPU compute: {rate}"
        if not computing.cpu_bf16:
            yield "this CPU does not compute in bf16: it computes in fp32, which moves twice the memory"
    granted = machine.usable if machine.quota is None else min(machine.usable, machine.quota)
    if granted < machine.cores:
        yield f"of {_cores(machine.cores)} this process gets {granted:g}: a container or the system limits it"
    if machine.quota is not None and machine.quota < computing.threads:
        wanted = max(1, int(machine.quota))
        yield f"more threads than cores that are granted: OMP_NUM_THREADS={wanted} will be faster"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = machine.environment.get(name, "")
        if value.isdecimal() and int(value) < granted:
            yield f"{name}={value} leaves cores idle: unset it unless that is meant"
    room = [size for size in (machine.memory_free, machine.memory_limit) if size is not None]
    if room and min(room) < LITTLE_MEMORY:
        yield f"only {min(room) / 2**30:.1f} GiB of memory can be had: take `pconv tile` for large pictures"
    if machine.temp_free is not None and machine.temp_free < LITTLE_ROOM:
        yield f"{machine.temp}: only {machine.temp_free / 2**20:.0f} MiB are free; TMPDIR can name another folder"
    for name in machine.environment:
        if name.startswith("PCONV_"):
            yield f"{name} is set, which changes how pconv works"


def _remarks_on_gpus(found: Findings) -> Iterator[str]:
    computing = found.computing
    if computing.gpus_unused and computing.device == "cpu":
        names = "; ".join(computing.gpus_unused)
        if computing.build == "CPU":
            way = "install a CUDA build, pytorch.org says how"
            yield f"there is a GPU ({names}), but torch is a build for CPUs alone: {way}"
        elif found.machine.environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            yield f"there is a GPU ({names}), and CUDA_VISIBLE_DEVICES hides it"
        else:
            why = computing.why_unused or "it does not say why"
            way = "update the driver, or install the build of torch that fits it"
            yield f"there is a GPU ({names}), but torch for {computing.build} cannot use it ({why}): {way}"
    for gpu in computing.gpus:
        if gpu.fault:
            yield f"{gpu.device} cannot be used ({gpu.fault})"
        elif gpu.memory and gpu.memory_free is not None and gpu.memory_free < gpu.memory / 2:
            yield f"{gpu.device}: more than half of its memory is taken by others, so batches will be smaller"


# ---------------------------------------------------------------- probes


def _guarded(look: Callable[[], Any], failed: Callable[[str], Any]) -> Any:
    """Make whatever goes wrong in a look a finding."""
    try:
        return look()
    except Exception as error:  # libraries that are half installed raise anything
        return failed(_reason(error))


def _reason(error: Exception) -> str:
    text = error.reason if isinstance(error, ItemError) else str(error)
    return " ".join(text.split()) or type(error).__name__


def _library(name: str, module: str, without: str) -> Library:
    try:
        with quietly():
            found = importlib.import_module(module)
            if module == "jpeglib":
                _jpeg.refuse_without_libjpeg()
    except Exception as error:
        return Library(name, None, f"{_reason(error)}: {_way_out(module, error)}", without)
    version = str(getattr(found, "__version__", "of unknown version"))
    gdal = getattr(found, "__gdal_version__", None)
    return Library(name, f"{version} with GDAL {gdal}" if gdal else version, None, without)


def _way_out(module: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return "reinstall pconv" if module != "jpeglib" else "pip install jpeglib==1.0.2"
    if module == "cv2":  # the wheel wants libGL and glib of the system, which servers and containers lack
        return "pip uninstall opencv-python, then pip install opencv-python-headless"
    return "install it again"


def _machine() -> Machine:
    cores = os.cpu_count() or 1
    temp, temp_free, memory = "", None, None
    with suppress(OSError):  # there may be none that can be written to; the codecs will tell
        temp = tempfile.gettempdir()
        temp_free = shutil.disk_usage(temp).free
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        system=platform.platform(),
        cpu=_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        cores=cores,
        usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        quota=cpu_quota(),
        memory=memory,
        memory_free=memory_available(),
        memory_limit=memory_limit(),
        temp=temp,
        temp_free=temp_free,
        environment={n: os.environ[n] for n in sorted(os.environ) if n.startswith("PCONV_") or n in _HEEDED},
    )


def _field(path: Path, name: str) -> str:
    """Read the first value of a name from one of the system's own lists, empty where there is none."""
    with suppress(OSError):
        for line in path.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Read how many cores' worth of time the control groups of this process grant; None where they set no limit.

    Args:
        root: Where the control groups are mounted, version 1 or 2.
        own: The file that names those of this process.
    """
    granted = []
    for folder in _groups(root, own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            time_, period = (folder / "cpu.max").read_text("ascii").split()
            granted.append(int(time_) / int(period))
        with suppress(OSError, ValueError, ZeroDivisionError):
            time_, period = ((folder / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
            granted += [int(time_) / int(period)] if int(time_) > 0 else []
    return min(granted, default=None)


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Read how many bytes the control groups of this process grant, as `cpu_quota` does."""
    granted = []
    for folder in _groups(root, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                granted.append(int((folder / name).read_text("ascii")))
    # Version 1 writes "no limit" as the largest number of whole pages.
    return min((size for size in granted if size < 2**60), default=None)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """Give the folders of the control groups of this process and of all above them, the root included."""
    names = {""}
    with suppress(OSError):
        names |= {line.split(":", 2)[-1].strip("/ \n") for line in own.read_text("utf-8", "replace").splitlines()}
    for name in sorted(names):
        for above in (Path(name), *Path(name).parents):
            yield from (root / part / above for part in ("", "cpu", "cpu,cpuacct", "memory"))


def _networks() -> tuple[Network, ...]:
    def look() -> tuple[Network, ...]:
        from pconv_cli import weights as store

        return tuple(
            Network(entry.name, entry.default, store.verify(entry))
            for entry in (*store.listed(), *store.listed_features())
        )

    return tuple(_guarded(look, lambda fault: (Network("weights", False, fault),)))


def _computing(weights: str | None) -> Computing:
    """Ask what `auto` takes, and fill a tile there; `weights` as for `weights.load_network`."""
    import torch

    from pconv_cli.engine import choose_devices, choose_precision, precision_name

    cpu = torch.device("cpu")
    with quietly():  # torch warns of a driver that is too old
        devices = choose_devices("auto")
        precision, reason = choose_precision("auto", devices)
        gpus = tuple(_gpu(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
        why = "" if gpus else _why_no_cuda()
    versions = (("ROCm", torch.version.hip), ("CUDA", torch.version.cuda))
    rate, fault = None, None
    try:
        rate = _fill_a_tile(weights, devices[0], precision)
    except Exception as error:
        fault = f"{devices[0]}: {_reason(error)}"
    return Computing(
        device=",".join(map(str, devices)),
        precision=precision_name(precision),
        precision_reason=reason,
        threads=torch.get_num_threads(),
        cpu_bf16=choose_precision("auto", cpu)[0] == torch.bfloat16,
        mps=torch.backends.mps.is_available(),
        build=next((f"{name} {version}" for name, version in versions if version), "CPU"),
        gpus=gpus,
        gpus_unused=() if gpus else _gpus_of_the_system(),
        why_unused=why,
        rate=rate,
        fault=fault,
    )


def _gpu(index: int) -> Gpu:
    import torch

    name = f"cuda:{index}"

    def look() -> Gpu:
        free, memory = torch.cuda.mem_get_info(index)
        return Gpu(name, torch.cuda.get_device_name(index), memory, free)

    found: Gpu = _guarded(look, lambda fault: Gpu(name, fault=fault))
    return found


def _why_no_cuda() -> str:
    """Have torch say why there is no CUDA device; empty where it was not built for any."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return ""
    return str(_guarded(torch.cuda.init, str) or "")


def _gpus_of_the_system() -> tuple[str, ...]:
    """Ask NVIDIA's own tool, which comes with the driver, for GPUs; none where there is no such tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(" with driver ".join(line.split(", ")) for line in done.stdout.splitlines() if line.strip())


def _fill_a_tile(weights: str | None, device: Any, precision: Any) -> float:
    """Fill one tile twice, and tell from the second time, which has nothing left to set up, how many a second go."""
    import numpy as np
    import torch

    from pconv_cli.engine import Engine, Tile
    from pconv_cli.weights import load_network

    engine = Engine(load_network(weights), device, precision, lambda event: None)
    known = np.ones((TILE, TILE), np.bool_)
    known[TILE // 4 : TILE // 2, TILE // 4 : TILE // 2] = False
    tile = Tile(_waves(TILE, TILE, np.uint8), known)
    threads = torch.get_num_threads()
    try:
        for _ in range(2):
            begun = time.perf_counter()
            filled = engine.fill([tile], (TILE, TILE), beside=engine.units)[0]
            seconds = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)  # the engine gives a lane its share of them
    if not filled.reached.all():
        raise RuntimeError("a tile came back unfilled")
    return engine.units / seconds


def _waves(width: int, height: int, dtype: Any) -> NDArray[Any]:
    """A smooth picture, (height, width, 3), that any codec can hold."""
    import numpy as np

    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=-1)
    return np.asarray(((waves + 1) / 2 * np.iinfo(dtype).max).astype(dtype))


def _cores(number: int) -> str:
    return f"{number} core{'' if number == 1 else 's'}"


# ---------------------------------------------------------------- codecs


def _restore_codecs() -> tuple[Codec, ...]:
    import numpy as np

    from pconv_cli import drawings, images, writing

    suffixes = {kind: suffix for suffix, kind in reversed(images.FORMATS.values())}
    with tempfile.TemporaryDirectory(prefix="pconv-") as folder:
        start = Path(folder, "start.png")
        drawings.write_png(_waves(40, 24, np.uint8), start, overwrite=False)
        picture = images.read_picture(start)

        def round_trip(kind: str) -> str | None:
            path = Path(folder, f"trial{suffixes[kind]}")
            writing.write_picture(picture, path, overwrite=False)
            return _difference(picture.pixels, images.read_picture(path).pixels, lossless=kind not in _LOSSY)

        return tuple(_codec(kind, "restore", partial(round_trip, kind)) for kind in sorted(suffixes))


def _tile_codecs() -> tuple[Codec, ...]:
    import numpy as np
    import rasterio

    from pconv_cli import tiff
    from pconv_cli.regions import Window

    width, height = 64, 48
    with tempfile.TemporaryDirectory(prefix="pconv-") as folder:

        def round_trip(name: str, driver: str, dtype: str, options: dict[str, Any]) -> str | None:
            path = Path(folder, f"{name}.trial")
            pixels = _waves(width, height, np.dtype(dtype))
            shape = {"width": width, "height": height, "count": 3, "dtype": dtype}
            with quietly(), rasterio.open(path, "w", driver=driver, **shape, **options) as raster:
                raster.write(np.moveaxis(pixels, -1, 0))
            with tiff.Source(path) as source:
                return _difference(pixels, source.read(Window(0, 0, width, height)), lossless=name not in _LOSSY)

        return tuple(_codec(one[0], "tile", partial(round_trip, *one), one[0] not in _EXTRA) for one in _TILE_CODECS)


def _codec(name: str, command: str, round_trip: Callable[[], str | None], needed: bool = True) -> Codec:
    return Codec(name, command, needed, _guarded(round_trip, str))


def _difference(sent: NDArray[Any], back: NDArray[Any], *, lossless: bool) -> str | None:
    """Say how what came back differs from what was sent, if it must not."""
    if back.shape != sent.shape or back.dtype != sent.dtype:
        return "came back in another shape"
    mean = float(abs(back.astype(int) - sent).mean())
    return f"came back changed, by {mean:.1f} in the mean" if mean > (0 if lossless else _CLOSE) else None
