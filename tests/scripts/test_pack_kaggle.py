"""The pack for Kaggle, and its notebook run offline where the packed wheels are all that is missing."""

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from dataclasses import replace
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import cv2
import nbformat
import pytest

from common.ensemble.loading import load_ensemble
from common.ensemble.members import identities
from common.errors import UserError
from common.files import files_below
from common.metrics.rle import parse_annotation
from common.submission.config import SubmissionConfig
from common.submission.inputs import open_parts
from pack_kaggle import copy_wheels

PACKED = ("av", "imagecodecs", "segmentation-models-pytorch", "tyro")
EXECUTE = """
import socket, sys, nbformat
from nbclient import NotebookClient

assert [name for _, name in socket.if_nameindex()] == ["lo"], "there is a network"
notebook = nbformat.read(sys.argv[1], 4)
client = NotebookClient(notebook, timeout=300)
client.create_kernel_manager().transport = "ipc"  # not even the loopback is up
try:
    client.execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


def own_files(package: Distribution) -> list[Path]:
    return [Path(path) for path in package.files if path.parts[0] != ".." and path.suffix != ".pyc"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels of the packed packages, made again from what is installed here."""
    folder, site = tmp_path_factory.mktemp("wheels"), Path(sysconfig.get_paths()["purelib"])
    for name in PACKED:
        package = distribution(name)
        tag = package.read_text("WHEEL").split("Tag: ")[1].split()[0]
        with ZipFile(folder / f"{name.replace('-', '_')}-{package.version}-{tag}.whl", "w") as wheel:
            for path in own_files(package):
                wheel.write(site / path, path)
    return folder


@pytest.fixture(scope="module")
def pack(call_program, wheels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kaggle") / "pack"
    result = call_program("pack_kaggle.py", "--owner", "someone", "--wheels", wheels, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def offline():
    """The command that starts a program without a network."""
    for command in (["unshare", "--map-root-user", "--net"], ["unshare", "--net"]):
        if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("no program may be started without a network here (unshare --net)")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A Jupyter folder whose kernel has this environment's packages but the packed ones."""
    folder, site = tmp_path_factory.mktemp("image"), Path(sysconfig.get_paths()["purelib"])
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    command = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    there = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    lacking = {path.parts[0] for name in PACKED for path in own_files(distribution(name))}
    for path in site.iterdir():
        if path.name not in lacking:
            (there / path.name).symlink_to(path)
    kernel = {"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "image"}
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel | {"language": "python"}))
    return folder


@pytest.fixture
def mounted(pack, copied_images, tmp_path):
    """The inputs, as Kaggle mounts them."""
    (tmp_path / "input" / "datasets" / "someone").mkdir(parents=True)
    (tmp_path / "input" / "datasets" / "someone" / "forgery-ensemble").symlink_to(pack / "dataset")
    data = tmp_path / "input" / "competitions" / "forgeries"
    (data / "test_images").mkdir(parents=True)
    for number, picture in enumerate(copied_images):
        cv2.imwrite(str(data / "test_images" / f"{number}.png"), picture)
    (data / "sample_submission.csv").write_text(
        "case_id,annotation\n" + "".join(f"{n},authentic\n" for n in (2, 1, 0, 3))
    )
    return data


@pytest.fixture
def execute(offline, image, pack, mounted, tmp_path):
    """Runs the packed notebook; what it printed, by cell, and the submission's annotations."""

    def execute(hours: float, *, fails: bool = False) -> tuple[list[str], dict[str, str]]:
        (tmp_path / "working").mkdir(exist_ok=True)
        places = {"FORGERY_INPUT": tmp_path / "input", "FORGERY_WORKING": tmp_path / "working", "JUPYTER_PATH": image}
        places |= {"JUPYTER_RUNTIME_DIR": tmp_path / "run", "FORGERY_HOURS": hours}
        command = [
            *offline,
            sys.executable,
            "-c",
            EXECUTE,
            pack / "notebook" / "submission.ipynb",
            tmp_path / "run.ipynb",
        ]
        environment = os.environ | {name: str(value) for name, value in places.items()}
        result = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (result.returncode != 0) == fails, result.stderr
        cells = [cell for cell in nbformat.read(tmp_path / "run.ipynb", 4).cells if cell.cell_type == "code"]
        printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]
        if fails:
            return [result.stderr], {}
        with (tmp_path / "working" / "submission.csv").open(newline="") as file:
            return printed, {row["case_id"]: row["annotation"] for row in csv.DictReader(file)}

    return execute


def test_the_notebook_makes_a_submission_offline(execute, image, copied_mask):
    printed, annotations = execute(hours=1)
    assert list(annotations) == ["2", "1", "0", "3"]  # as the sample has them
    assert annotations["0"] == annotations["2"] == "authentic"
    for name in ("1", "3"):
        (mask,) = parse_annotation(annotations[name], *copied_mask.shape)
        assert (mask & copied_mask).sum() / (mask | copied_mask).sum() > 0.8
    assert "4 rows: 2 forged, 2 authentic" in printed[-1]
    assert "4 test images" in printed[0]
    (installed,) = (image / "venv").rglob("site-packages/tyro")
    assert not installed.is_symlink()


@pytest.mark.slow
def test_when_the_time_is_over_the_other_images_are_called_authentic(execute, mounted, pack, tmp_path):
    config = SubmissionConfig(
        input=mounted / "test_images",
        output=tmp_path / "working" / "submission.csv",
        models_dir=pack / "dataset" / "models",
        part_size=2,
    )
    parts = open_parts(config)
    with parts.written(parts.parts[0], Counter()) as (rows, _):
        rows.writerows([("2", "[5, 3];[100, 2]"), ("1", "authentic")])
    printed, annotations = execute(hours=0)
    assert annotations == {"2": "[5, 3];[100, 2]", "1": "authentic", "0": "authentic", "3": "authentic"}
    assert "2 of 4 images were not reached" in printed[-1]


@pytest.mark.slow
def test_without_any_prediction_the_notebook_fails(execute):
    (error,), _ = execute(hours=0, fails=True)
    assert "no image was predicted" in error


def test_the_same_inputs_make_the_same_files(call_program, wheels, tmp_path):
    made = []
    for _ in range(2):
        result = call_program("pack_kaggle.py", "--owner", "someone", "--wheels", wheels, "--output", tmp_path / "pack")
        assert result.returncode == 0, result.stderr
        made.append({path: path.read_bytes() for path in files_below(tmp_path)})
        (tmp_path / "pack" / "dataset" / "code" / "common" / "of_an_older_pack.py").touch()
    assert made[0] == made[1]


OTHERS = (
    "cp311-abi3-macosx_11_0_arm64",  # the first one by its name
    "cp313-abi3-manylinux_2_28_x86_64",  # of a later Python
    "cp311-cp311-manylinux_2_28_x86_64",  # of an earlier one alone
    "cp311-abi3-manylinux_2_28_aarch64",
    "cp311-abi3-manylinux_2_99_x86_64",
    "cp311-abi3-musllinux_1_2_x86_64",
    "cp311-abi3-win_amd64",
)


@pytest.fixture
def mixed(wheels, tmp_path):
    """A folder of wheels that has those of `av` for other systems and Pythons alone."""
    shutil.copytree(wheels, tmp_path / "wheels")
    (own,) = (tmp_path / "wheels").glob("av-*.whl")
    version = distribution("av").version
    for tag in OTHERS:
        shutil.copyfile(own, tmp_path / "wheels" / f"av-{version}-{tag}.whl")
    own.unlink()
    return tmp_path / "wheels"


def test_wheels_of_other_systems_are_not_packed(mixed, tmp_path):
    with pytest.raises(UserError, match=r"--wheels .* has no wheel of av==.* for Kaggle.*\n?.*pip download .*3\.12"):
        copy_wheels(mixed, tmp_path / "out")
    assert not [path for path in files_below(tmp_path / "out") if path.name.startswith("av-")]
    version = distribution("av").version
    fits = f"av-{version}-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    (mixed / f"av-{version}-{OTHERS[0]}.whl").rename(mixed / fits)
    copy_wheels(mixed, tmp_path / "again")
    packed = [path.name for path in files_below(tmp_path / "again")]
    assert len(packed) == len(PACKED) and packed[0] == fits


def test_a_wheel_that_is_cut_off_is_refused(mixed, tmp_path):
    path = mixed / f"av-{distribution('av').version}-py3-none-any.whl"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"--wheels .*: pip can't read a wheel: ERROR.*av"):
        copy_wheels(mixed, tmp_path / "out")


def test_what_kaggle_is_told(pack):
    dataset = json.loads((pack / "dataset" / "dataset-metadata.json").read_text())
    kernel = json.loads((pack / "notebook" / "kernel-metadata.json").read_text())
    assert dataset["id"] == "someone/forgery-ensemble"
    assert 20 <= len(dataset["subtitle"]) <= 80  # Kaggle's limits
    assert kernel["dataset_sources"] == [dataset["id"]]
    assert kernel["id"] == f"someone/{kernel['title'].lower().replace(' ', '-')}"
    assert (kernel["enable_gpu"], kernel["enable_internet"]) == (True, False)
    assert (pack / "notebook" / kernel["code_file"]).is_file()


def test_a_folder_without_checkpoints_packs_the_copy_move_evidence_alone(call_program, save_network, wheels, tmp_path):
    (tmp_path / "models").mkdir()
    flags = (
        "--owner",
        "someone",
        "--wheels",
        wheels,
        "--models-dir",
        tmp_path / "models",
        "--output",
        tmp_path / "out",
    )
    result = call_program("pack_kaggle.py", *flags)
    assert result.returncode == 0, result.stderr
    assert "copy-move evidence decides alone" in result.stdout
    for path in ("ela_best.pth", "ela_last.pth", "fold_1/ela_best.pth"):
        save_network(tmp_path / "models" / path, in_channels=4)
    assert call_program("pack_kaggle.py", *flags).returncode == 0
    models = tmp_path / "out" / "dataset" / "models"
    packed = [path.relative_to(models).as_posix() for path in files_below(models)]
    assert packed == ["README.md", "ela_best.pth", "fold_1/ela_best.pth"]


def test_settings_of_other_checkpoints_are_refused(call_program, save_network, wheels, tmp_path):
    models = tmp_path / "models"
    save_network(models / "highres_no_ela_best.pth")
    settings = load_ensemble(models, allow_missing=True).settings
    flags = ("--owner", "someone", "--wheels", wheels, "--models-dir", models, "--output", tmp_path / "out")
    for checkpoints, status in (
        ({"highres_no_ela": "0", "copy_move": "1"}, 1),
        (identities(models, copy_move=True), 0),
    ):
        replace(settings, checkpoints=checkpoints).save(models / "ensemble.json")
        result = call_program("pack_kaggle.py", *flags)
        assert result.returncode == status, result.stderr
        assert ("was fitted for other checkpoints" in result.stderr) == bool(status)
    assert (tmp_path / "out" / "dataset" / "models" / "ensemble.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--owner", "Some One"], "not a name as in the address of your profile"),
        (["--wheels", "."], "has no wheel of av=="),
        (["--models-dir", "nowhere"], "--models-dir nowhere is no folder"),
        (["--output", "tests"], "which is no part of a pack"),
        (["--output", "."], "--output . is no folder of its own"),
        (["--output", ".."], "--output .. is no folder of its own"),
        (["--wheels", "LICENSE"], "--wheels LICENSE is no folder"),
    ],
)
def test_errors_are_one_message_and_leave_nothing(call_program, wheels, tmp_path, flags, message):
    given = ("--owner", "someone", "--wheels", wheels, "--output", tmp_path / "out")
    result = call_program("pack_kaggle.py", *given, *flags)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_failed_download_says_what_to_do(call_program, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    result = call_program("pack_kaggle.py", "--owner", "someone", "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "pip can't download the wheels: ERROR" in result.stderr and "--wheels" in result.stderr
    assert not (tmp_path / "out").exists()
