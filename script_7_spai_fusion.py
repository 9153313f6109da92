"""Script 7: is the picture as a whole generated? SPAI's spectral evidence, joined with CLIP's idea of what it shows.

SPAI (Karageorgiou et al., CVPR 2025) asks of every patch how well its high frequencies follow from its low ones: a
frozen ViT looks at the patch and at its low and high frequencies; the similarities of the three, with a spectral
context vector, go through an attention over all patches of an image of any size. The fusion lets a CLIP image tower
(and prompts, with --prompts) add what is shown: gated, and beginning as nothing, so that it starts as plain SPAI, which
--fusion none is, with the published defaults. Two stages: the semantic parts and the head, then everything.

    python script_7_spai_fusion.py --csv images.csv                    # image,class,split[,generator][,prompt]
    python script_7_spai_fusion.py --real photographs --fake generated --profile quick
    python script_7_spai_fusion.py --csv images.csv --evaluate --degrade jpeg,webp,resize,blur,noise
    python script_7_spai_fusion.py --csv images.csv --holdout-generator sdxl
    python script_7_spai_fusion.py --convert spai.pth --output models/spai_best.pth      # the published weights

Writes models/spai_fusion_best.pth, ..._last.pth, ..._metrics.json, and tests on the split that it was not trained on:
figures by generator, a calibrated probability, and verdicts whose false-positive rate --target-fpr bounds.
Measured: the full recipe not yet. Quick, from scratch, 8 epochs on 308 portraits: test AUC 0.963 ± 0.022 (plain SPAI
0.906 ± 0.029), by their content; on portraits against the same resampled and autoencoded 0.50. Two CPU cores (README).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.devices import process_state
from common.files import written_whole
from common.generated.config import SpaiConfig
from common.generated.testing import convert_published, evaluate_spai
from common.generated.training import fit_spai, load_images, start_spai
from common.metrics.detection import format_table

CONFIG = SpaiConfig(name="spai_fusion")


def main(config: SpaiConfig) -> None:
    """Train and test; or only test; or convert."""
    if config.convert is not None:
        print(f"{config.convert} → {convert_published(config)}")
        return
    images = load_images(config)
    if not config.evaluate:
        model, config = start_spai(config)
        metrics = fit_spai(config, model, images)
        process_state().print(
            f"{config.name}: validation AUC {metrics['auc']:.4f}, AP {metrics['ap']:.4f}, "
            f"accuracy {metrics['accuracy']:.4f} → {config.models_dir / config.name}_best.pth"
        )
    if not config.evaluate and {image.generated for image in images if image.split == "test"} != {False, True}:
        process_state().print(f"{config.name}: not tested, since the test split lacks a class")
        return
    table = evaluate_spai(config, images)
    process_state().print(format_table(table))
    if config.table is not None and process_state().is_main_process:
        with written_whole(config.table) as file:
            table.to_csv(file, index=False)


if __name__ == "__main__":
    main(parse_config(CONFIG))
