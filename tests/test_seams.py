"""Which rooms may know which, read from the source: arrows go down, and no circle anywhere."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = (
    "colours",
    "components",
    "devices",
    "errors",
    "files",
    "html",
    "locks",
    "page",
    "patterns",
    "process",
    "sizes",
    "suffixes",
    "tables",
)
# From the ground up. A room may import its own modules, the ground, and these rooms, all of which stand above it here.
ROOMS = {
    "config": (),
    "metrics": (),
    "forensics": (),
    "figures": ("forensics",),
    "papers": ("forensics", "figures"),
    "networks": (),
    "data": ("forensics",),
    "making": ("data", "forensics"),
    "training": ("config", "metrics", "networks", "data"),
    "generated": ("config", "metrics", "forensics", "networks", "data", "training"),
    "video": ("config", "metrics", "networks", "data", "training"),
    "ensemble": ("metrics", "forensics", "figures", "networks", "data", "training", "generated"),
    "submission": ("metrics", "data", "ensemble", "generated", "video"),
    "evaluation": ("metrics", "data", "ensemble"),
    "explaining": ("forensics", "figures", "papers", "data", "ensemble"),
    "app": (
        *("metrics", "forensics", "figures", "papers", "data"),
        *("ensemble", "generated", "video", "submission", "explaining"),
    ),
}
# Rooms that are entered by their `__init__` alone, and the program whose own room each is.
DOORS = {"generated": "script_7_spai_fusion.py", "video": "script_8_deepfake_video.py"}
MODULES = sorted((ROOT / "common").rglob("*.py"))
PROGRAMS = sorted(ROOT.glob("*.py"))
SCRIPTS = sorted(ROOT.glob("script_*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def room_of(module: str) -> str:
    """`common.data.images` → data; the modules of the ground are a room each, and `common` itself is none."""
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> list[str]:
    """The modules of `common`, and the top names of other packages, that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in NAMES else node.module for name in inner]
    return names


def own(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] == "common"}


def test_every_module_has_a_place():
    assert {room_of(name) for name in NAMES} - {""} == {*ROOMS, *GROUND}
    for place, (room, below) in enumerate(ROOMS.items()):
        assert set(below) <= set(list(ROOMS)[:place]), f"an arrow of {room} goes up"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_module_imports_only_what_lies_below_it(path):
    room = room_of(name_of(path))
    allowed = {room, *GROUND, *ROOMS.get(room, ())}
    wrong = {name for name in own(path) if room_of(name) not in allowed}
    assert not wrong, f"{path.name} may not import {wrong}"


def test_no_circle_of_modules():
    # A package's `__init__` is its door: what stands in the room does not go through it.
    graph = {name_of(path): own(path) - {name_of(path)} for path in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_detectors_are_entered_by_their_doors(path):
    for room, program in DOORS.items():
        if room_of(name_of(path)) == room or path.name == program:
            continue
        wrong = {name for name in own(path) if room_of(name) == room and name != f"common.{room}"}
        assert not wrong, f"{path.name} imports {wrong}, not common.{room}"


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_imports_a_program(path):
    programs = {program.stem for program in PROGRAMS} | {"benchmarks", "tests"}
    assert not programs & {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_script_is_short_and_only_puts_parts_together(path):
    source = path.read_text()
    nodes = list(ast.walk(ast.parse(source)))
    assert len(source.splitlines()) <= 120
    assert not [n for n in nodes if isinstance(n, ast.ClassDef | ast.Try)]
    assert ".cuda(" not in source
    assert ".backward(" not in source
    docstring = ast.get_docstring(ast.parse(source))
    assert f"python {path.name}" in docstring
    assert "Measured" in docstring


def test_scripts_exist():
    assert SCRIPTS
