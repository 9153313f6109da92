"""The directions in which the parts may know each other, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = ("common.errors", "common.sizes", "common.files", "common.tables")
METRICS = tuple(f"common.evaluation.{name}" for name in ("metrics", "calibration", "conformal", "detection"))
FLOORS = (*GROUND, "common.devices", "common.data", "common.forensics", "common.networks", *METRICS)

# Which parts of `common` a part may import: the longest matching name rules.
MAY_IMPORT = {
    "common": (*GROUND, "common.process"),
    "common.process": ("common.errors",),
    "common.config": (*GROUND, "common.config"),
    "common.data": (*GROUND, "common.data", "common.forensics"),
    "common.forensics": (*GROUND, "common.forensics"),
    "common.networks": (*GROUND, "common.networks"),
    "common.evaluation": (*FLOORS, "common.evaluation", "common.metrics.rle", "common.video.detector"),
    "common.metrics.forgery": ("common.errors", "common.sizes"),
    "common.metrics.calibration": ("common.errors",),
    "common.metrics.conformal": (),
    "common.metrics.detection": ("common.metrics.forgery", "common.tables"),
    "common.training": (*FLOORS, "common.config", "common.training"),
    "common.inference": (*FLOORS, "common.inference", "common.training.checkpoint"),
}
MODULES = sorted((ROOT / "common").rglob("*.py"))
PROGRAMS = sorted(ROOT.glob("*.py"))
SCRIPTS = sorted(ROOT.glob("script_*.py"))


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_module_imports_only_what_its_floor_may(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    rule = max((part for part in MAY_IMPORT if within(module, (part,))), key=len)
    wrong = [n for n in imported(path) if within(n, ("common",)) and not within(n, MAY_IMPORT[rule])]
    assert not wrong, f"{module} may not import {wrong}"


@pytest.mark.parametrize("path", MODULES + PROGRAMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_imports_a_program(path):
    programs = {program.stem for program in PROGRAMS}
    assert not programs & {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.name)
def test_program_imports_common_before_third_parties(path):
    """Because importing it prepares the process, which is in vain once torch is there."""
    tops = [name.split(".")[0] for name in imported(path)]
    third = [top for top in tops if top in {"torch", "numpy", "cv2", "accelerate", "tyro", "tqdm", "pandas", "sklearn"}]
    assert "common" in tops
    assert not third or tops.index("common") < tops.index(third[0])


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
