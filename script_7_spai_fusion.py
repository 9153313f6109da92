"""Script 7: detection of generated images by SPAI, fused with CLIP's embedding of the image.

SPAI (Karageorgiou et al., CVPR 2025) measures for every patch how well its high frequencies follow from its low ones: a
frozen ViT encodes the patch, its low and its high frequencies; their similarities and a spectral context vector go
through an attention over all patches of an image of any size. The fusion adds a CLIP image tower (and text prompts,
with --prompts) through gates that are closed at first, so that it starts as plain SPAI, which --fusion none trains with
the published defaults. Two stages: the semantic parts and the head, then everything.

    python script_7_spai_fusion.py --data-dir DIR            # real/, fake/[GENERATOR/], or these in train/, val/, test/
    python script_7_spai_fusion.py --csv images.csv          # file,label[,split][,generator][,prompt]
    python script_7_spai_fusion.py --data-dir DIR --profile quick --fusion none
    python script_7_spai_fusion.py --data-dir DIR --profile quick --network residual   # sees pixels' residuals alone
    python script_7_spai_fusion.py --csv images.csv --holdout-generator sdxl
    python script_7_spai_fusion.py test --data-dir DIR --degrade jpeg webp resize blur noise
    python script_7_spai_fusion.py calibrate models/residual_best.pth --real PHOTOGRAPHS
    python script_7_spai_fusion.py convert spai.pth --output models/spai_best.pth    # the published weights

Training writes models/spai_fusion_best.pth, ..._last.pth, ..._metrics.json, and tests on the test split: results by
generator, a calibrated probability, and verdicts whose false-positive rate --target-fpr bounds.
Measured: the full recipe not yet. Quick, on photographs against their own round trips (benchmarks.aligned_set, seeds 3
to 5): residuals, 24 epochs, test AUC 0.987 ± 0.007, after JPEG 90 0.858 ± 0.008; a round trip of a kind that the
training lacks may go unseen. Plain SPAI and the fusion, 4 epochs, seeds 0 to 2: 0.50, blind. Two CPU cores
(docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.files import check_writable, written_whole
from common.generated.config import CalibrationConfig, ConversionConfig, EvaluationConfig, SpaiConfig
from common.locks import locks_end

CONFIG = SpaiConfig(name="spai_fusion")
COMMANDS = {"test": EvaluationConfig, "calibrate": CalibrationConfig, "convert": ConversionConfig}


@locks_end()
def main(config: SpaiConfig | EvaluationConfig | CalibrationConfig | ConversionConfig) -> None:
    """Train and test; or only test; or calibrate; or convert."""
    if isinstance(config, ConversionConfig):
        # Imported here, not above: torch takes seconds, and --help needs none of it.
        from common.generated.published import convert_published

        convert_published(config.published, config.output)
        print(f"{config.published} → {config.output}")
    elif isinstance(config, CalibrationConfig):
        from common.generated.calibrating import calibrate_on_photographs

        print(calibrate_on_photographs(config))
    elif isinstance(config, EvaluationConfig):
        test(config)
    else:
        train(config)


def train(config: SpaiConfig) -> None:
    """Train the network, and test the best epoch."""
    from common.devices import process_state
    from common.generated.calibrating import calibrate_trained
    from common.generated.testing import evaluate_spai
    from common.generated.training import load_images, start_spai, train_spai
    from common.metrics.detection import format_table
    from common.training.run_files import check_files

    check_files(config)
    images = load_images(config)
    model, config = start_spai(config)
    metrics = train_spai(config, model, images)
    calibrate_trained(config, images)
    say = process_state().print
    say(
        f"{config.name}: validation AUC {metrics['auc']:.4f}, AP {metrics['ap']:.4f}, "
        f"accuracy {metrics['accuracy']:.4f} → {config.models_dir / config.name}_best.pth"
    )
    if {image.generated for image in images if image.split == "test"} == {False, True}:
        say(format_table(evaluate_spai(config.evaluation(), images)))
    else:
        say(f"{config.name}: not tested, since the test split lacks a class")


def test(config: EvaluationConfig) -> None:
    """Test a trained network."""
    from common.devices import process_state
    from common.generated.testing import evaluate_spai
    from common.generated.training import load_images
    from common.metrics.detection import format_table

    if config.table is not None:
        check_writable(config.table)
    table = evaluate_spai(config, load_images(config, decoded=("test",)))
    process_state().print(format_table(table))
    if config.table is not None and process_state().is_main_process:
        with written_whole(config.table) as file:
            table.to_csv(file, index=False)


if __name__ == "__main__":
    main(parse_config(CONFIG, COMMANDS))
