"""Script 8: is the face in this video fake, and where? Spotter, a classifier of clips.

A face is tracked through frames spaced evenly in time and cropped. EfficientNet encodes each crop at three scales,
which are fused and weighted by attention; a bidirectional GRU reads the crops in order and classifies the clip.
Grad-CAM at the three scales shows what raises the score for fake. Images count as clips of one frame.

    python script_8_deepfake_video.py --data-dir DIR       # {train,val,test}/{real,fake}/*.mp4, or {real,fake}/
    python script_8_deepfake_video.py --csv clips.csv      # file,label,identity,split
    python script_8_deepfake_video.py --data-dir DIR --encoder-name tf_efficientnet_b3
    python script_8_deepfake_video.py test --data-dir DIR  # test the checkpoint again
    python explain.py clip.mp4                             # score clips, and see why

Training decodes every clip once, into --cache-dir; all clips of a person (--identity) are in one split. It writes
models/deepfake_video_best.pth, ..._last.pth and ..._metrics.json, and tests on the split that it was not trained on:
..._reliability.png shows whether its probabilities hold for clips of fewer frames.
Without fake clips it makes its own, by blending each real face with itself, and says so.
Measured: the full recipe not yet. Quick, MobileNetV2 with ImageNet weights, 700 face crops: test AUC 0.907 ± 0.008 (a
plain classifier 0.839 ± 0.018), which does not carry over to other fakes. 143 to 254 real crops alone: 0.60; with as
many fakes of the tested kind: 0.88. B0 takes 5.7 s for ten seconds of 720p, and 7.5 s more for the pictures. Two CPU
cores (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from typing import TYPE_CHECKING

from common.config.run import parse_config
from common.locks import locks_end
from common.video.config import EvaluationConfig, VideoConfig

if TYPE_CHECKING:
    from common.video.cache import ClipCache
    from common.video.clips import Clip

CONFIG = VideoConfig(name="deepfake_video")


@locks_end()
def main(config: VideoConfig | EvaluationConfig) -> None:
    """Train and test, or only test."""
    if isinstance(config, EvaluationConfig):
        # Imported here, not above: torch takes seconds, and --help needs none of it.
        from common.video.training import load_test_clips

        test(config, *load_test_clips(config))
    else:
        train(config)


def train(config: VideoConfig) -> None:
    """Train, and test if the test split has both classes."""
    from common.data.splits import of_split
    from common.devices import process_state
    from common.training.run_files import check_files
    from common.video.training import load_clips, start_spotter, train_spotter

    check_files(config)
    say = process_state().print
    clips, cache = load_clips(config)
    model, config = start_spotter(config)
    metrics = train_spotter(config, model, clips, cache)
    again = config.evaluation()
    say(f"{config.name}: validation AUC {metrics['auc']:.4f}, frames {metrics['frame_auc']:.4f} → {again.checkpoint}")
    if {clip.fake for clip in of_split(clips, "test")} == {False, True}:
        test(again, clips, cache)
    else:
        say(f"{config.name}: not tested, since the test split lacks a class")


def test(config: EvaluationConfig, clips: list["Clip"], cache: "ClipCache") -> None:
    """Print the metrics of the test split, and show whether its probabilities hold for shorter clips."""
    from common.devices import process_state
    from common.files import written_whole
    from common.metrics.detection import format_table
    from common.video.training import evaluate_spotter, reliability_by_length

    say = process_state().print
    say(format_table(evaluate_spotter(config, clips, cache)))
    say("the same clips with at most so many frames:")
    table, figure = reliability_by_length(config, clips, cache)
    say(format_table(table))
    if process_state().is_main_process:
        name = config.checkpoint.stem.removesuffix("_best")
        with written_whole(config.checkpoint.with_name(f"{name}_reliability.png"), "wb") as file:
            figure.savefig(file, format="png", dpi=120)


if __name__ == "__main__":
    main(parse_config(CONFIG, {"test": EvaluationConfig}))
