"""Script 8: is the face in this video fake, and where? Spotter, at the level of clips.

A face is followed through frames spaced evenly in time and cropped; EfficientNet sees each crop at three scales, joined
and weighed by attention; a bidirectional GRU reads the crops in order. The verdict is the clip's logit; Grad-CAM at the
three scales shows what speaks for a fake. Images count as clips of one frame.

    python script_8_deepfake_video.py --data-dir DIR       # {train,val,test}/{real,fake}/*.mp4, or {real,fake}/
    python script_8_deepfake_video.py --csv clips.csv      # file,label,identity,split
    python script_8_deepfake_video.py --data-dir DIR --encoder-name tf_efficientnet_b3
    python script_8_deepfake_video.py --predict FILE_OR_DIR --output DIR

Training decodes every clip once, into --cache-dir; nobody known (--identity) is in two splits. It writes
models/deepfake_video_best.pth, ..._last.pth, ..._metrics.json, and tests on the split that it was not trained on.
Prediction writes results.csv, and for each video result.json, contact sheet, timeline, annotated video, heatmaps.npz.
Measured: the full recipe not yet. Quick, MobileNetV2 with ImageNet weights, 700 face crops: test AUC 0.907 ± 0.008 (a
plain classifier 0.839 ± 0.018), which does not carry over to other fakes. Ten seconds of 720p take B0 5.7 s, and 7.5 s
for the pictures. Two CPU cores (README).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.data.splits import of_split
from common.devices import process_state
from common.metrics.detection import format_table
from common.video.config import VideoConfig
from common.video.detector import load_video_detector
from common.video.faces import make_face_detector
from common.video.report import predict_folder
from common.video.training import checkpoint_path, evaluate_spotter, fit_spotter, load_clips, start_spotter

CONFIG = VideoConfig(name="deepfake_video")


def main(config: VideoConfig) -> None:
    """Predict; or train and test; or only test."""
    if config.predict is not None:
        predict(config)
        return
    clips, cache = load_clips(config)
    best = config.models_dir / f"{config.name}_best.pth"
    if not config.evaluate:
        model, config = start_spotter(config)
        metrics = fit_spotter(config, model, clips, cache)
        process_state().print(
            f"{config.name}: validation AUC {metrics['auc']:.4f}, frames {metrics['frame_auc']:.4f} → {best}"
        )
    if not config.evaluate and {clip.fake for clip in of_split(clips, "test")} != {False, True}:
        process_state().print(f"{config.name}: not tested, since the test split lacks a class")
    else:
        process_state().print(format_table(evaluate_spotter(config, clips, cache)))


def predict(config: VideoConfig) -> None:
    """Score a video, or all of a folder."""
    faces = make_face_detector(config.faces, model=config.face_model, boxes=config.boxes)
    path, device = checkpoint_path(config), process_state().device
    limits = {"threshold": config.threshold, "min_coverage": config.min_coverage}
    detector = load_video_detector(path, device, faces, **limits)
    failures = predict_folder(detector, config.predict, config.output, pictures=config.pictures)
    print(f"→ {config.output / 'results.csv'}" + f"; {failures} could not be scored" * bool(failures))
    if failures and config.predict.is_file():
        raise SystemExit(1)


if __name__ == "__main__":
    main(parse_config(CONFIG))
