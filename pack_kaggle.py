"""Pack code, networks and wheels as a Kaggle data set, and the notebook that makes a submission from them offline.

    make kaggle OWNER=my-kaggle-name
    python pack_kaggle.py --owner my-kaggle-name --models-dir models --output outputs/kaggle

Writes outputs/kaggle/dataset (code, models, wheels) and outputs/kaggle/notebook (docs/kaggle.ipynb: one T4, no
internet); the same inputs make the same files. Nothing is uploaded: Kaggle's own program does that, with your account.

    pip install kaggle
    kaggle datasets create -p outputs/kaggle/dataset --dir-mode zip              # the first time, and later:
    kaggle datasets version -p outputs/kaggle/dataset --dir-mode zip -m "new networks"
    kaggle kernels push -p outputs/kaggle/notebook                               # minutes later: it is unpacked first

The competition gives a notebook nine hours. This one stops after 8.5, and calls the images that were not reached
authentic. Checkpoints are packed as they are; `export_models.py --format safetensors` makes them much smaller.
"""

from common.process import prepare

prepare()  # before torch is imported

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.errors import UserError
from common.files import check_writable, entries, files_below, write_json
from common.locks import hold, locks_end

ROOT = Path(__file__).parent
DATASET = "forgery-ensemble"
WHEELS = ("av", "imagecodecs", "segmentation-models-pytorch", "tyro")
"""What make_submission.py imports and Kaggle's image lacks: readers of videos and of compressed TIFFs, networks, the
command line. The image is Colab's (its packages: googlecolab/backend-info) with kaggle_requirements.txt of
Kaggle/docker-python. It has the rest, in other versions than requirements.lock, which stay."""
FOR_KAGGLE = (
    *("--no-deps", "--only-binary=:all:", "--python-version=3.12"),
    *("--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"),
)
"""Flags with which pip takes wheels for the image's Python and system, whatever those of this machine are."""
TRIED = {
    "numpy": "2.0.2", "scipy": "1.16.3", "pandas": "2.2.2", "scikit-learn": "1.6.1", "scikit-image": "0.25.2",
    "opencv-python-headless": "4.13.0.92", "pillow": "11.3.0", "tifffile": "2026.3.3", "torch": "2.11.0",
    "torchvision": "0.26.0", "timm": "1.0.27", "accelerate": "1.13.0", "albumentations": "2.0.8", "pydantic": "2.12.3",
}  # fmt: skip
"""Versions of the image in mid-2026, with which make_submission.py was run, on Python 3.11."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """What to pack, and where to write it."""

    owner: str
    """Your user name on Kaggle."""
    models_dir: Path = Path("models")
    """Folder of the checkpoints; where nothing is trained, copy-move evidence decides alone."""
    wheels: Path | None = None
    """Folder that holds the wheels, perhaps among those of other systems; by default pip downloads them."""
    output: Path = Path("outputs/kaggle")
    """Folder to write to. An earlier pack there is replaced."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        if not re.fullmatch(r"[a-z0-9-]+", self.owner):
            raise UserError(f"--owner is {self.owner!r}, not a name as in the address of your profile on Kaggle.")


@locks_end()
def main(config: PackConfig) -> None:
    """Write the two folders, and print what is in them and what to do next.

    Raises:
        UserError: A wheel or the models are missing, or the output can't be written or holds something else.
    """
    if config.output.name in ("", ".."):
        raise UserError(f"--output {config.output} is no folder of its own. Name a new one, such as outputs/kaggle.")
    output, partial = config.output, config.output.with_name(f"{config.output.name}.partial")
    check_writable(output)
    hold(output)
    for folder in (output, partial):
        if foreign := [path for path in entries(folder) if path.name not in ("dataset", "notebook")]:
            raise UserError(f"{folder} holds {foreign[0].name}, which is no part of a pack. Name another --output.")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_dataset(config, partial / "dataset")
        write_notebook(config, partial / "notebook")
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in files_below(output))
    print(f"wrote {output}, {size / 1e6:.0f} MB; to upload it, see: python pack_kaggle.py --help")


def write_dataset(config: PackConfig, folder: Path) -> None:
    """Write code, networks, wheels and what Kaggle asks of a data set; prints a line about each.

    Raises:
        UserError: A wheel or the models are missing.
    """
    code = [path for path in files_below(ROOT / "common") if path.suffix in (".py", ".html")]
    for path in [*code, ROOT / "make_submission.py", ROOT / "LICENSE"]:
        copy(path, folder / "code" / path.relative_to(ROOT))
    copy_models(config.models_dir, folder / "models")
    pins = copy_wheels(config.wheels, folder / "wheels")
    write_json({"wheels": pins, "tried": TRIED}, folder / "pack.json")
    metadata = {
        "title": "Forgery ensemble",
        "id": f"{config.owner}/{DATASET}",
        "licenses": [{"name": "other"}],
        "subtitle": "Code, networks and wheels for an offline submission",
        "description": "The code is under the MIT licence; each wheel holds its own.",
    }
    write_json(metadata, folder / "dataset-metadata.json")


def write_notebook(config: PackConfig, folder: Path) -> None:
    """Write the notebook, without outputs, and its settings."""
    metadata = {
        "id": f"{config.owner}/{DATASET}-submission",
        "title": "Forgery ensemble submission",  # Kaggle makes the name from it
        "code_file": "submission.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",  # by default it is a P100, for which current torch has no kernels
        "dataset_sources": [f"{config.owner}/{DATASET}"],
        "competition_sources": ["recodai-luc-scientific-image-forgery-detection"],
    }
    copy(ROOT / "docs" / "kaggle.ipynb", folder / "submission.ipynb")
    write_json(metadata, folder / "kernel-metadata.json")


def copy_models(models_dir: Path, folder: Path) -> None:
    """Copy checkpoints and fitted settings; prints which.

    Raises:
        UserError: There is no such folder, or the settings need what is not packed.
    """
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.ensemble.members import SETTINGS_FILE, checkpoint_paths
    from common.ensemble.settings import Settings

    if not models_dir.is_dir():
        raise UserError(f"--models-dir {models_dir} is no folder. Name that of the checkpoints.")
    paths, file = checkpoint_paths(models_dir), models_dir / SETTINGS_FILE
    if paths and file.is_file():
        settings = Settings.load(file)
        if settings.decision.reads_generated:
            raise UserError("the decision reads script 7's detector, which is not packed. Fit with --no-generated.")
        if settings.changed_members(models_dir):
            raise UserError(f"{file} was fitted for other checkpoints. Fit again, or remove it.")
        paths.append(file)
    copy(ROOT / "models" / "README.md", folder / "README.md")  # Kaggle keeps no empty folder
    for path in paths:
        copy(path, folder / path.relative_to(models_dir))
    names = ", ".join(path.relative_to(models_dir).as_posix() for path in paths)
    print(f"from {models_dir}: {names or 'no network, so copy-move evidence decides alone'}")


def copy_wheels(source: Path | None, folder: Path) -> list[str]:
    """Copy the wheels from a folder, or download them, for Kaggle's Python and system; their pins.

    Raises:
        UserError: There is no such folder, it has none of a package that can be installed there, or pip fails.
    """
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(rf"^(?:{'|'.join(WHEELS)})==\S+$", lock, re.MULTILINE)
    assert len(pins) == len(WHEELS), "a wheel is not in the lock, or in several versions"
    print(f"wheels: {', '.join(pins)}")
    if source and not source.is_dir():
        raise UserError(f"--wheels {source} is no folder. Name that of the wheels.")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *FOR_KAGGLE]
    # From a folder pip copies what Kaggle's Python can install, and asks no index, whatever its settings say.
    command += ["--isolated", "--no-index", f"--find-links={source}"] if source else []
    result = subprocess.run([*command, f"--dest={folder}", *pins], capture_output=True, text=True)
    if result.returncode:
        missing = re.search(r"No matching distribution found for (\S+)", result.stderr)
        if source and missing:
            flags = " ".join(FOR_KAGGLE)
            raise UserError(
                f"--wheels {source} has no wheel of {missing[1]} for Kaggle, which has Python 3.12 on Linux (x86-64). "
                f"Download it: pip download {flags} {missing[1]}"
            )
        why = re.findall("^ERROR.*", result.stderr, re.MULTILINE) or [result.stderr.strip()]
        if source:
            raise UserError(f"--wheels {source}: pip can't read a wheel: {why[-1]}\nDownload it again.")
        raise UserError(f"pip can't download the wheels: {why[-1]}\nName a folder that holds them: --wheels.")
    return pins


def copy(source: Path, target: Path) -> None:
    """Copy a file's content, into a folder that is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main(tyro.cli(PackConfig, description=__doc__))
