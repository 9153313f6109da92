import json
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from common.ensemble.choices import FITTED, ORIGINAL
from common.ensemble.decision import Decision
from common.ensemble.instances import Cleanup
from common.ensemble.members import MEMBERS, identities, map_members
from common.ensemble.settings import Settings
from common.ensemble.status import DETECTORS, SCRIPTS, StatusConfig, find_ensemble, find_runs, main
from common.errors import UserError
from common.forensics import copy_move
from common.generated import DETECTOR
from common.locks import hold, release
from common.video import NAME

ROOT = Path(__file__).parents[2]
CONFIG = {"epochs": 4, "profile": "quick"}
METRICS = {"dice": 0.41234, "pixel_f1": 0.3, "image_auc": None, "epoch": 2, "seconds": 130.0, "config": CONFIG}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "train_images").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def shown(folder, capsys):
    """The rows of the table by their first cell, split, and the commands to run next."""

    def show(**flags):
        main(StatusConfig(**{"models_dir": folder, "data_dir": folder.parent / "data"} | flags))
        table, steps = capsys.readouterr().out.split("\n\nnext:\n")
        rows = [line.split() for line in table.splitlines()[4:]]
        return {row[0]: row[1:] for row in rows}, [line.split("    # ")[0].strip() for line in steps.splitlines()]

    return show


def checkpoint(path):
    """A file as torch writes it: a zip."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"1")


def trained(folder, name, metrics=METRICS):
    for end in ("best", "last"):
        checkpoint(folder / f"{name}_{end}.pth")
    (folder / f"{name}_metrics.json").write_text(json.dumps(metrics))


def fit(folder, checkpoints, feature="quantile_999", report=None):
    """Write the settings of a fit of these checkpoints."""
    decision = Decision(
        features=(feature,),
        mean=(0.0,),
        scale=(1.0,),
        coefficients=(1.0,),
        intercept=0.0,
        calibration={"slope": 1.0, "intercept": 0.0},
    )
    Settings(
        weights=dict.fromkeys([name for name in checkpoints if name != "spai"], 1.0),
        pixel_threshold=0.5,
        min_area_share=0.0005,
        cleanup=Cleanup(),
        tta="none",
        decision=decision,
        source="fitted",
        checkpoints=checkpoints,
        report=report or {},
    ).save(folder / "ensemble.json")


def test_the_names_are_those_of_the_members():
    assert {member.name: member.script for member in map_members()} == SCRIPTS
    scripts = {member.script for member in MEMBERS if member.script} - set(SCRIPTS.values())
    assert scripts == {script for name, script in DETECTORS.items() if name != NAME}
    assert all((ROOT / script).is_file() for script in (SCRIPTS | DETECTORS).values())
    assert NAME in DETECTORS and any(name.startswith(DETECTOR) for name in DETECTORS)


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_folder(folder, shown, there):
    if not there:
        folder.rmdir()
    rows, steps = shown()
    assert list(rows) == [*SCRIPTS, *DETECTORS, "ensemble"]
    assert all(row[1] == "missing" for name, row in rows.items() if name != "ensemble")
    assert rows["ensemble"][1:] == ["not", "fitted"]
    where = f"DATA={folder.parent / 'data'} MODELS={folder}"
    assert steps == [
        f"make train {where} PROFILE=full",
        f"make fit {where}",
        f"make submission {where}",
        f"python script_7_spai_fusion.py --data-dir DIR --models-dir {folder}",
        f"python script_8_deepfake_video.py --data-dir DIR --models-dir {folder}",
    ]
    assert folder.exists() == there


def test_without_data_they_come_first(folder, shown):
    _, steps = shown(data_dir=folder / "my data")
    assert steps[0] == f"python prepare_data.py import SOURCE '{folder}/my data' --holdout 0.2"
    assert steps[1].startswith(f"make train DATA='{folder}/my data' MODELS=")


def test_all_that_is_trained_leaves_the_submission(folder, shown):
    for name in SCRIPTS:
        trained(folder, name)
    trained(folder, "spai", {"auc": 0.97, "ap": 0.96, "epoch": 0, "seconds": 5.0, "config": {"epochs": 1}})
    trained(folder, "deepfake_video_2", {"auc": 0.9, "epoch": -1, "seconds": 5.0, "config": {"epochs": 0}})
    report = {"single": {"of1": 0.9}, ORIGINAL: {"of1": 0.5}, f"{FITTED}, flips": {"of1": 0.625}}
    fit(folder, identities(folder, copy_move=True), report=report)
    rows, steps = shown()
    for name in SCRIPTS:
        assert rows[name][1] == "trained" and rows[name][2].startswith(time.strftime("%Y-"))
        assert rows[name][4:] == [
            "dice",
            "0.412,",
            "pixel",
            "F1",
            "0.300",
            "quick",
            "best",
            "epoch",
            "3",
            "of",
            "4,",
            "2",
            "min",
        ]
    assert rows["spai"][0] == "script_7_spai_fusion.py" and rows["spai"][4:8] == ["AUC", "0.970,", "AP", "0.960"]
    assert rows["deepfake_video_2"][0] == "script_8_deepfake_video.py" and rows["deepfake_video_2"][-3] == "untrained,"
    assert "spai_fusion" not in rows and "deepfake_video" not in rows
    assert rows["ensemble"][1] == "fitted" and rows["ensemble"][-2:] == ["oF1", "0.625"]
    assert steps == [f"make submission DATA={folder.parent / 'data'} MODELS={folder}"]
    (folder / "ela_best.pth").write_bytes((folder / "ela_best.pth").read_bytes() + b"\0")
    rows, steps = shown()
    assert rows["ensemble"][1] == "outdated" and rows["ensemble"][-1] == "ela"
    assert [step.split()[1] for step in steps] == ["fit", "submission"]


def test_a_run_that_broke_off_goes_on_with_its_own_flags(folder, shown):
    checkpoint(folder / "ela_best.pth")
    checkpoint(folder / "ela_last.pth")
    command = ["/here/script_5_ela.py", "--data-dir", "my data", "--profile", "quick", "--overwrite", "--epochs", "4"]
    record = {"command": command, "config": CONFIG, "epochs": {"1": {"dice": 0.3}, "2": {"dice": None}}}
    (folder / "ela_history.json").write_text(json.dumps(record))
    rows, steps = shown()
    assert rows["ela"][1:3] == ["broken", "off"] and rows["ela"][-5:] == ["after", "epoch", "2", "of", "4"]
    assert shlex.split(steps[0]) == [
        *("python", "script_5_ela.py", "--data-dir", "my data", "--profile", "quick", "--epochs", "4", "--resume")
    ]
    assert steps[1].startswith("make train ") and steps[1].endswith(" PROFILE=quick")  # the others, as that one
    (folder / "ela_history.json").unlink()  # as of an earlier version
    rows, steps = shown()
    assert rows["ela"][1:3] == ["broken", "off"] and steps[0].startswith("make train ")


def test_a_run_in_progress_is_left_alone(folder, shown):
    for name in SCRIPTS:
        trained(folder, name)
    (folder / "ela_metrics.json").unlink()
    holding = "import sys; from pathlib import Path; from common.locks import hold; hold(Path(sys.argv[1])); "
    command = [sys.executable, "-c", f"{holding}print(flush=True); input()", str(folder / "ela")]
    program = subprocess.Popen(command, stdin=-1, stdout=-1, cwd=ROOT)
    program.stdout.readline()
    rows, steps = shown()
    program.communicate(b"\n")
    assert rows["ela"][1:3] == ["in", "training"] and str(program.pid) in rows["ela"]
    where = f"DATA={folder.parent / 'data'} MODELS={folder}"
    assert steps[:2] == [f"make status {where} PROFILE=quick", f"make fit {where}"]
    assert shown()[0]["ela"][1:3] == ["broken", "off"]


def test_before_its_first_epoch_a_run_has_no_file(folder, shown):
    hold(folder / "highres_no_ela")
    try:
        assert shown()[0]["highres_no_ela"][1:3] == ["in", "training"]
    finally:
        release(folder / "highres_no_ela")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", '"x"', "nan"])
def test_broken_metrics_are_a_row_and_a_remedy(folder, shown, text):
    trained(folder, "ela")
    (folder / "ela_metrics.json").write_text(text)
    rows, steps = shown()
    assert rows["ela"][1] == "damaged" and " ".join(rows["ela"][4:]).startswith("ela_metrics.json can't be read (")
    # The run goes on from its last state, which has all of it.
    assert steps[:2] == [f"rm -f {folder}/ela_metrics.json", steps[1]] and steps[1].startswith("make train")


@pytest.mark.parametrize("fault", ["missing", "cut off"])
def test_a_checkpoint_that_is_gone_is_trained_again(folder, shown, fault):
    trained(folder, "ela")
    path = folder / "ela_best.pth"
    path.unlink() if fault == "missing" else path.write_bytes(path.read_bytes()[:40])
    rows, steps = shown()
    assert rows["ela"][1] == "damaged" and fault in " ".join(rows["ela"])
    assert steps[0] == f"rm -f {folder}/ela_metrics.json {folder}/ela_best.pth {folder}/ela_last.pth"


@pytest.mark.parametrize("content", [{"config": []}, {"dice": "high", "config": {"profile": 3}}, {"epoch": "1"}])
def test_odd_metrics_are_no_reason_to_fail(folder, shown, content):
    trained(folder, "ela", content | {"x": 1})
    (folder / "ela_history.json").write_text(json.dumps({"epochs": {}, "command": 3, "config": None}))
    assert shown()[0]["ela"][1] == "trained"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"checkpoints": [], "report": {}}', '{"report": 3}'])
def test_a_broken_fit_is_a_row(folder, shown, content):
    (folder / "ensemble.json").write_text(content)
    rows, steps = shown()
    assert rows["ensemble"][1] == "damaged" and any(step.startswith("make fit") for step in steps)


def test_other_files_and_names(folder, shown):
    checkpoint(folder / "my run_best.pth")
    (folder / "\x1b[31m_metrics.json").write_text("{}")
    (folder / "ela_last.pth").mkdir()
    (folder / "enhanced_aug.safetensors").write_bytes(b"x")
    (folder / "fold_1").mkdir()
    trained(folder / "fold_1", "ela")
    checkpoint(folder / "fold_1" / "hard_negative_last.pth")
    rows, steps = shown()
    assert rows["my"][:3] == ["run", "no", "metrics"] and r"\x1b[31m" in rows
    assert rows["ela"][1] == "missing" and rows["enhanced_aug"][1] == "released"
    assert rows["fold_1/"][:4] == ["1", "of", "6", "members"]
    assert rows["fold_1/"][-3:] == ["hard_negative:", "broken", "off"]
    assert steps[1] == f"make folds DATA={folder.parent / 'data'} MODELS={folder} PROFILE=full"


def test_a_file_is_no_folder(folder):
    (folder / "x").write_text("")
    with pytest.raises(UserError, match=r"--models-dir .* is not a folder"):
        main(StatusConfig(models_dir=folder / "x"))


def test_the_fit_is_known_by_the_same_hashes(folder, save_network):
    for place in (folder, folder / "fold_1"):
        save_network(place / "ela_best.pth", weights=len(place.parts))
    found = identities(folder)
    assert list(found) == ["ela"]
    fit(folder, found)
    ensemble = find_ensemble(folder)
    assert ensemble.state == "fitted" and ensemble.note.endswith("submit with --no-copy-move")
    assert find_runs(folder)[4].state == "no metrics"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("other evidence", "copy_move"),
        ("detector trained again", "spai"),
        ("detector removed", "spai"),
        ("member added", "high_recall"),
        ("member removed", "ela"),
        ("other detector beside it", "several detectors"),
    ],
)
def test_a_fit_that_a_submission_sets_aside_is_outdated(folder, shown, monkeypatch, change, named):
    for name in ("ela", "hard_negative", "spai"):
        trained(folder, name)
    fit(folder, identities(folder, copy_move=True, generated=True), "generated")
    assert find_ensemble(folder).state == "fitted" and find_ensemble(folder).note == ""
    path = folder / "spai_best.pth"
    match change:
        case "other evidence":
            monkeypatch.setattr(copy_move, "VERSION", copy_move.VERSION - 7)
        case "detector trained again":
            path.write_bytes(path.read_bytes() + b"\0")
        case "detector removed":
            path.unlink()
        case "member added":
            checkpoint(folder / "high_recall_best.pth")
        case "member removed":
            (folder / "ela_best.pth").unlink()
        case "other detector beside it":
            checkpoint(folder / "spai_fusion_best.pth")
    rows, steps = shown()
    assert rows["ensemble"][1] == "outdated" and named in " ".join(rows["ensemble"])
    assert any(step.startswith("make fit") for step in steps)


def test_a_detector_that_the_fit_does_not_read_changes_nothing(folder):
    trained(folder, "ela")
    fit(folder, identities(folder, copy_move=True))
    checkpoint(folder / "residual_best.pth")
    assert find_ensemble(folder).state == "fitted"


@pytest.mark.parametrize("wrong", [{"pixel_threshold": 2.0}, {"tta": "sideways"}, {"weights": {"ela": 1.0, "b": 1.0}}])
def test_a_fit_that_a_submission_refuses_is_damaged(folder, wrong):
    checkpoint(folder / "ela_best.pth")
    fit(folder, identities(folder))
    path = folder / "ensemble.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    ensemble = find_ensemble(folder)
    assert ensemble.state == "damaged" and ensemble.note.startswith(str(path))


def test_it_answers_at_once(run_program, folder):
    """Without torch, whose import takes seconds."""
    done = run_program("-m", "common.ensemble.status", "--models-dir", folder)
    assert done.returncode == 0 and done.stdout.startswith(f"{folder}\n\nname ")
    loaded = "import common.ensemble.status, sys; sys.exit(any(name in sys.modules for name in ('torch', 'pandas')))"
    assert run_program("-c", loaded).returncode == 0
    done = run_program("-m", "common.ensemble.status", "--models", folder)
    assert done.returncode == 2 and "--models" in done.stderr
