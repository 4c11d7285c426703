"""The layout, held by reading the source: bands, doors to risky libraries, what must stay light.

A new module fails here until it is given a band. That is wanted: deciding where it stands is part of writing it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pconv_cli"

BANDS = (  # from the top down: a module imports only what stands in a band below its own
    {"__main__", "api", "cli", "cli.app", "cli.restore", "cli.tile", "cli.evaluate", "cli.train", "cli.weights"}
    | {
        "cli.ui",
        "cli.text",
        "cli.pipes",
        "cli.check",
        "cli.compare",
        "cli.doctor",
        "cli.reference",
        "cli.options",
        "cli.mask",
    },
    {"restore", "bench", "tile", "sharing", "check", "checkpoints", "export", "evaluation", "training.loop", "doctor"}
    | {"proofs", "comparison", "beside", "watching", "masking", "damage", "planning"},
    {
        "jobs",
        "pairs",
        "pipeline",
        "helpers",
        "distributed",
        "engine",
        "filling",
        "surface",
        "weights",
        "families",
        "report",
        "classical",
        "curves",
        "page",
    }
    | {
        "picture",
        "images",
        "writing",
        "drawings",
        "_carry",
        "_jpeg",
        "tiff",
        "canvas",
        "strips",
        "georeference",
        "encoders",
        "_gdal",
        "_heads",
        "_ifd",
        "_pages",
        "_anew",
        "companions",
        "layers",
        "spaces",
        "marks",
        "settings",
        "manifest",
        "journal",
        "keeping",
        "remote",
        "provenance",
    }
    | {"training.data", "training.photos", "training.damage"},
    {
        "nn",
        "nn.partial_conv",
        "nn.padding",
        "nn.pyramid",
        "nn.restraint",
        "nn.grain",
        "nn.squeeze",
        "nn.unet",
        "masks",
        "detection",
        "infrared",
        "metrics",
        "seams",
        "halo",
        "sketch",
        "confidence",
    }
    | {"training.losses", "training.adversary"},
    {"tiles", "regions", "colours", "files", "events", "errors", "process", "orientations"},
)
# Packages that hold nothing but a docstring, and the root with the version and lazy names: anyone may import those.
EMPTY = {"", "training"}
# The few that lean on a neighbour in their own band.
NEIGHBOURS = {
    ("picture", "_carry"),  # it hands on what that holds
    ("_carry", "_ifd"),  # which tags are about layout
    ("picture", "layers"),
    ("picture", "marks"),
    ("images", "picture"),
    ("images", "_carry"),  # their private parts
    ("images", "_jpeg"),
    ("images", "layers"),
    ("images", "tiff"),  # where Pillow would narrow
    ("writing", "picture"),
    ("writing", "images"),  # it reads back
    ("writing", "_carry"),
    ("writing", "_jpeg"),
    ("writing", "tiff"),
    ("writing", "companions"),
    ("drawings", "picture"),
    ("drawings", "writing"),  # what can be written, and why not
    ("drawings", "_carry"),
    ("images", "strips"),
    ("writing", "canvas"),
    ("writing", "encoders"),
    ("layers", "spaces"),
    ("files", "errors"),  # the words for a want of memory
    *((name, "spaces") for name in ("canvas", "marks", "picture", "tiff", "writing")),  # what types of pixels there are
    ("tile", "damage"),
    ("tile", "planning"),
    ("tile", "sharing"),
    ("tile", "beside"),
    ("planning", "damage"),
    ("sharing", "planning"),
    ("restore", "beside"),
    ("restore", "bench"),
    ("bench", "beside"),
    ("check", "bench"),
    ("proofs", "bench"),
    ("comparison", "bench"),
    ("watching", "bench"),
    ("watching", "beside"),
    ("watching", "restore"),  # it finds what that is to do
    ("check", "restore"),  # it looks at what that would do
    ("proofs", "restore"),  # they show what those did
    ("proofs", "tile"),
    ("comparison", "evaluation"),
    ("comparison", "restore"),  # it reads as that does
    ("page", "drawings"),
    ("jobs", "manifest"),
    ("settings", "marks"),
    ("encoders", "_gdal"),  # big pictures, from the ground up
    ("encoders", "_ifd"),
    *((name, "_heads") for name in ("images", "strips", "tiff")),  # what GDAL had better not be asked for
    ("_heads", "_ifd"),
    ("tiff", "_gdal"),
    ("tiff", "_ifd"),
    ("tiff", "companions"),
    ("tiff", "encoders"),
    ("tiff", "layers"),
    ("georeference", "_gdal"),
    ("georeference", "companions"),
    ("georeference", "tiff"),
    ("strips", "_gdal"),
    ("strips", "_ifd"),
    ("strips", "georeference"),
    ("strips", "tiff"),
    ("canvas", "_gdal"),
    ("canvas", "_ifd"),
    ("canvas", "companions"),
    ("canvas", "encoders"),
    ("canvas", "tiff"),
    ("canvas", "_pages"),  # its private parts
    ("canvas", "_anew"),
    ("_pages", "_gdal"),
    ("_pages", "tiff"),
    ("_anew", "_gdal"),
    ("_anew", "_ifd"),
    ("_anew", "images"),  # of other formats Pillow knows more
    ("_anew", "_carry"),
    ("_anew", "tiff"),
    ("helpers", "pipeline"),  # its stages are what they do a part of
    ("filling", "engine"),
    ("filling", "layers"),
    ("surface", "canvas"),
    ("surface", "layers"),
    ("surface", "tiff"),
    ("weights", "layers"),
    ("infrared", "detection"),
    ("bench", "masking"),  # it finds the damage itself, if it is asked to
    ("tiles", "regions"),
    ("training.data", "training.damage"),
    ("training.photos", "images"),
    ("training.losses", "metrics"),
    ("nn.unet", "nn.partial_conv"),
    ("nn.unet", "nn.pyramid"),
    ("nn.unet", "nn.restraint"),
    ("nn.restraint", "nn.pyramid"),
    ("nn.grain", "nn.restraint"),
    ("nn.pyramid", "nn.partial_conv"),
    ("nn", "nn.padding"),
    ("nn", "nn.partial_conv"),
    ("nn.padding", "nn.partial_conv"),
}
DOORS = {  # library: the modules that may import it at all
    "PIL": {"images", "writing", "drawings", "spaces"},
    "h5py": {"checkpoints"},
    "ray": {"distributed"},
    "fsspec": {"remote"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "onnxscript": {"export"},
    "tqdm": {"api"},  # for notebooks
    "jpeglib": {"_jpeg"},
    "rasterio": {"_gdal", "encoders", "tiff", "georeference", "strips", "canvas", "_anew", "classical", "doctor"},
    "skimage": {"classical"},
    "matplotlib": {"curves"},
    "safetensors": {"weights"},
    "rich": {"cli.ui"},
    "typer": {"cli.app", "cli.restore", "cli.tile", "cli.evaluate", "cli.train", "cli.weights"}
    | {"cli.check", "cli.compare", "cli.doctor", "cli.reference", "cli.options", "cli.mask"},
}
LIGHT = (
    "errors",
    "events",
    "process",
    "files",
    "regions",
    "tiles",
    "jobs",
    "picture",
    "images",
    "writing",
    "drawings",
    "tiff",
    "canvas",
    "strips",
    "georeference",
    "encoders",
    "tile",
    "damage",
    "planning",
    "surface",
    "classical",
    "cli.app",
    "cli.restore",
    "cli.tile",
    "cli.evaluate",
    "cli.train",
    "cli.weights",
    "cli.ui",
    "cli.text",
    "cli.pipes",
    "cli.options",
    "cli.check",
    "cli.compare",
    "cli.mask",
    "masking",
    "detection",
    "infrared",
    "cli.doctor",
    "cli.reference",
    "doctor",
    "manifest",
    "journal",
    "keeping",
    "remote",
    "provenance",
    "confidence",
    "beside",
    "marks",
    "settings",
    "layers",
    "spaces",
    "page",
)
EXTRAS = ("evaluate", "keras", "onnx", "ray", "remote")
HEAVY = {"torch", "cv2", "safetensors", "skimage", "matplotlib"}
IMPORTED_AS = {"pillow": "PIL", "opencv-python": "cv2", "scikit-image": "skimage"}


class Import(NamedTuple):
    """One import: the dotted name, and whether it runs when the module is loaded."""

    name: str
    on_load: bool
    for_types: bool


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def imports(module: str) -> list[Import]:
    return list(_imports(tree(module), on_load=True, for_types=False))


def _imports(node: ast.AST, *, on_load: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, on_load, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports hide where a module stands"
            yield from (Import(f"{child.module}.{alias.name}", on_load, for_types) for alias in child.names)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, on_load=on_load and not inside, for_types=for_types or typing)


def own(imported: str) -> str | None:
    """The module of this package that an imported name belongs to, or None where it is somebody else's."""
    if imported.partition(".")[0] != "pconv_cli":
        return None
    name = imported.removeprefix("pconv_cli").removeprefix(".")
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def band(module: str) -> int:
    return next(level for level, modules in enumerate(BANDS) if module in modules)


def reached_on_load(module: str) -> set[str]:
    """Every module of this package that loading one loads."""
    reached: set[str] = set()
    pending = [module]
    while pending:
        current = pending.pop()
        if current in reached:
            continue
        reached.add(current)
        pending += [found for i in imports(current) if i.on_load and not i.for_types and (found := own(i.name))]
    return reached


def libraries(module: str, *, on_load: bool) -> set[str]:
    found = {i.name.partition(".")[0] for i in imports(module) if (i.on_load and not i.for_types) or not on_load}
    return found - {"pconv_cli"}


def calls(module: str) -> Iterator[str]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_every_module_stands_in_exactly_one_band() -> None:
    placed = [module for modules in BANDS for module in modules]
    assert sorted([*placed, *EMPTY]) == sorted(MODULES), "give a new module its band, take a gone one out"


@pytest.mark.parametrize("module", sorted(set(MODULES) - EMPTY))
def test_a_module_imports_only_from_bands_below_its_own(module: str) -> None:
    for imported in imports(module):
        other = own(imported.name)
        if other is None or other in EMPTY or (module, other) in NEIGHBOURS:
            continue
        inside_cli = band(module) == band(other) == 0 and "api" not in (module, other)
        assert band(other) > band(module) or inside_cli, f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(EMPTY - {""}))
def test_the_packages_that_anyone_may_import_hold_no_code_of_their_own(module: str) -> None:
    statements = [node for node in tree(module).body if not isinstance(node, ast.Expr)]
    assert all(isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) for node in statements)


def test_the_root_loads_none_of_its_modules_and_no_library() -> None:
    loaded = {i.name for i in imports("") if i.on_load and not i.for_types}
    assert loaded == {"typing.TYPE_CHECKING"}
    assert {own(i.name) for i in imports("")} == {None, "api"}


def test_no_module_reaches_itself_by_what_it_imports() -> None:
    below = {module: {found for i in imports(module) if (found := own(i.name))} - {module} for module in MODULES}
    below[""] = set()  # it hands out names of the API when they are asked for
    order: list[str] = []
    while len(order) < len(MODULES):
        ready = [m for m in MODULES if m not in order and below[m] <= set(order)]
        assert ready, f"a circle among {sorted(set(MODULES) - set(order))}"
        order += ready


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_in_its_header_what_it_is(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_risky_library_has_one_door(library: str) -> None:
    users = {module for module in MODULES if library in libraries(module, on_load=False)}
    assert users <= DOORS[library], f"{library} is imported by {sorted(users - DOORS[library])}"
    assert users, f"nobody imports {library}: take its door out"


def test_only_images_opens_picture_files() -> None:
    openers = {module for module in MODULES if "Image.open" in calls(module)}
    assert openers == {"images"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_opencv_is_never_imported_when_a_module_loads(module: str) -> None:
    assert "cv2" not in libraries(module, on_load=True)


def test_only_files_bends_the_filters_of_warnings_which_are_the_whole_process_s() -> None:
    """With two locks for them, two threads would put back each other's filters."""
    users = {m for m in MODULES if any(re.search(r"catch_warnings|simplefilter|filterwarnings", c) for c in calls(m))}
    assert users == {"files"}


def test_the_terminal_has_one_bar_and_it_is_not_tqdm() -> None:
    assert not [m for m in MODULES if m.startswith("cli") and "tqdm" in libraries(m, on_load=False)]


def test_only_app_ends_the_process() -> None:
    leaving = re.compile(r"sys\.exit|exit|quit|os\._exit|os\.abort|SystemExit")
    users = {module for module in MODULES if any(leaving.fullmatch(call) for call in calls(module))}
    users |= {m for m in MODULES for i in imports(m) if i.name in ("sys.exit", "os._exit", "os.abort")}
    assert users == {"cli.app"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_prints_and_only_the_terminal_side_knows_the_streams(module: str) -> None:
    assert "print" not in set(calls(module))
    if module not in ("cli.ui", "cli.app", "cli.pipes", "cli.reference"):
        streams = {ast.unparse(n) for n in ast.walk(tree(module)) if isinstance(n, ast.Attribute)}
        assert not streams & {"sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"}


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_nothing_heavy_not_even_through_others(module: str) -> None:
    for reached in reached_on_load(module):
        assert not HEAVY & libraries(reached, on_load=True), f"{module} loads {reached}"


def test_version_and_help_are_answered_without_torch() -> None:
    light = ", ".join(f"pconv_cli.{module}" for module in LIGHT)
    commands = ("restore", "tile", "mask", "check", "evaluate", "compare", "train", "weights", "doctor")
    program = f"""
import runpy, sys
import {light}
for arguments in (["--version"], ["--help"], *([name, "--help"] for name in {commands})):
    sys.argv = ["pconv", *arguments]
    try:
        runpy.run_module("pconv_cli", run_name="__main__")
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
heavy = {HEAVY} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pconv 0.")


def declared(part: str) -> set[str]:
    block = re.search(rf"^{part} = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert block
    names = re.findall(r'"([A-Za-z0-9_.-]+)', block[1], re.M)
    return {IMPORTED_AS.get(name, name) for name in names}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_package_that_is_imported_is_declared(module: str) -> None:
    foreign = libraries(module, on_load=False) - set(sys.stdlib_module_names)
    known = declared("dependencies").union(*map(declared, EXTRAS))
    assert foreign <= known, f"{sorted(foreign - known)} in {module}: not in pyproject's dependencies"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_only_an_extra_brings_is_never_imported_when_a_module_loads(module: str) -> None:
    assert not set().union(*map(declared, EXTRAS)) & libraries(module, on_load=True)


def test_the_tests_bring_what_the_extras_bring() -> None:
    assert declared("evaluate") <= declared("bench")
    block = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'"pconv[{",".join(EXTRAS)}]"' in block


def test_the_lowest_versions_that_were_run_with_are_those_that_are_asked_for() -> None:
    block = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert block
    asked = dict(re.findall(r'^ *"([a-z-]+)[>=]=([0-9.]+)', block[1], re.M))
    lines = (ROOT / "tests" / "lowest.txt").read_text("utf-8").splitlines()
    run = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert run.keys() == asked.keys() and len(run) >= 10
    assert all(f"{run[name]}.".startswith(f"{version}.") for name, version in asked.items())


def test_only_the_importer_opens_pickles() -> None:
    opening = [
        module
        for module in MODULES
        if re.search(r"torch\.load\(|import pickle|pickle\.load", MODULES[module].read_text("utf-8"))
    ]
    assert opening == ["checkpoints"]
    assert "weights_only=True" in MODULES["checkpoints"].read_text("utf-8")
