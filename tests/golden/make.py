"""Makes the files of this folder: small trained networks as this version writes them, and what they predict.

    python -m tests.golden.make tests/golden/v1

Later versions must read them and predict the same (`test_golden.py`). A version that writes another format adds a
folder, and leaves the earlier ones as they are.
"""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.killed import make_data
from common.config.segmentation import OversamplingConfig
from common.ensemble.loading import load_ensemble, original_settings
from common.ensemble.members import SETTINGS_FILE, identities
from common.generated.config import SpaiConfig
from common.generated.detector import load_detector
from common.training.checkpoint import load_checkpoint, save_checkpoint, save_release
from common.video.config import VideoConfig
from common.video.detector import load_video_detector
from common.video.files import write_video

CPU = torch.device("cpu")
SPAI = {"patch_size": 32, "patch_stride": 32, "mask_radius": 3.0, "semantic_scales": (2,), "fusion_width": 16} | {
    "backbone_width": 32, "projection_dim": 16, "attention_dim": 16, "views": 2, "batch_size": 16
}  # fmt: skip


def picture(seed: int = 0) -> np.ndarray:
    """A picture with a bright square, uint8 (96, 128, 3); the same on every machine."""
    image = np.random.default_rng(seed).integers(60, 120, (96, 128, 3), dtype=np.uint8)
    image[20:50, 30:70] = 200
    return image


def predictions(folder: Path) -> dict[str, float | list[float]]:
    """What the networks of a folder say of `picture` and of a clip of four pictures."""
    ensemble = load_ensemble(folder, CPU, allow_missing=True, copy_move=False)
    prediction = ensemble.predict([picture()])[0]
    released = load_ensemble(folder / "release", CPU, copy_move=False, generated=False).predict([picture()])[0]
    detector = load_detector(folder / "spai_fusion_best.pth", CPU)
    videos = load_video_detector(folder / "deepfake_video_best.pth", CPU, faces="crops")
    with TemporaryDirectory() as place:
        write_video(Path(place, "clip.avi"), [picture(number) for number in range(4)], 4.0)
        score = videos.predict(Path(place, "clip.avi"), explain=False)
    return {
        "forged_probability": prediction.forged_probability,
        "map": prediction.prob[::16, ::16].ravel().tolist(),
        "released_map": released.prob[::16, ::16].ravel().tolist(),
        "generated_probability": detector.predict([picture()])[0].probability,
        "fake_probability": score.probability,
    }


def main(target: Path) -> None:
    """Train for an epoch or two, and write the networks without the optimiser's state."""
    with TemporaryDirectory() as place:
        data, models = Path(place, "data"), Path(place, "models")
        data.mkdir()
        make_data(data)
        config = OversamplingConfig(name="highres_no_ela").quick()
        config = replace(config, encoder_name="tu-test_efficientnet", encoder_weights="none", tracker="none", epochs=2)
        config = replace(config, decoder_channels=32, image_size=64, data_dir=data / "images", models_dir=models)
        runpy.run_path("script_1_highres_no_ela.py")["main"](config)
        spai = replace(SpaiConfig(name="spai_fusion").quick(), **SPAI, data_dir=data / "classes", models_dir=models)
        spai = replace(spai, tracker="none", epochs=1, stage_one_epochs=0, warmup_epochs=0)
        runpy.run_path("script_7_spai_fusion.py")["main"](spai)
        video = replace(VideoConfig(name="deepfake_video").quick(), data_dir=data / "clips", models_dir=models)
        video = replace(video, encoder_name="test_efficientnet", encoder_weights="none", image_size=64, frames=4)
        video = replace(video, frozen_epochs=0, epochs=1, faces="crops", hidden=8, layers=1, tracker="none")
        runpy.run_path("script_8_deepfake_video.py")["main"](video)
        for path in sorted(models.glob("*_best.pth")):
            checkpoint = load_checkpoint(path, ())
            whole = {name: value for name, value in checkpoint.items() if name != "optimizer_state_dict"}
            config = whole["config"]
            whole["config"] = config | {
                name: "data" for name in ("data_dir", "models_dir", "cache_dir") if config.get(name)
            }
            whole["calibration"] = {"slope": 1.0, "intercept": 0.0}  # so that the predictions show the network's own
            save_checkpoint(whole, target / path.name)
    save_release(load_checkpoint(target / "highres_no_ela_best.pth"), target / "release" / "highres_no_ela.safetensors")
    networks = load_ensemble(target, CPU, allow_missing=True, copy_move=False, generated=False).folds[0]
    settings = replace(original_settings(networks), checkpoints=identities(target), source="fitted")
    settings.save(target / SETTINGS_FILE)
    (target / "expected.json").write_text(json.dumps(predictions(target), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
