"""Script 9: the detector of panels, which finds a figure's micrographs, blots, photographs, plots and drawings.

EfficientNet-Lite0 with ImageNet weights; each place of a map at a stride of 8 scores the five kinds for a panel whose
middle is there, and says how far its sides are. It learns on figures that were outlined by hand, varied (other contents
in their panels, other proportions), and on figures composed of their panels, drawn plots, schematics and blots.

    python script_9_panels.py --figures FIGURES/images --outlines data/outlines.json --micrographs MICROGRAPHS
    python script_9_panels.py --figures DIR --outlines own.json --resume --epochs 20
    python script_9_panels.py export                 # the checkpoint → common/figures/panels.safetensors

Training writes models/panels_best.pth, ..._last.pth and ..._metrics.json. `export` replaces the weights that
`explain.py`, `make_submission.py` and `fit_ensemble.py` find panels with.
Measured: docs/RESULTS.md, compound figures.
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.panel_training.config import ExportConfig, PanelConfig

CONFIG = PanelConfig()


def main(config: PanelConfig | ExportConfig) -> None:
    """Train; or write the weights of a checkpoint for the programs."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    if isinstance(config, ExportConfig):
        from common.panel_training.training import export

        export(config.checkpoint, config.output)
        print(f"{config.checkpoint} → {config.output}")
        return
    from common.devices import process_state
    from common.panel_training.training import start_network, train_panels
    from common.training.run_files import check_files

    check_files(config)
    model, config = start_network(config)
    metrics = train_panels(config, model)
    process_state().print(
        f"{config.name}: recall {metrics['recall']:.3f}, precision {metrics['precision']:.3f} at IoU 0.75, kinds "
        f"{metrics['kinds']:.3f} → {config.models_dir / config.name}_best.pth"
    )


if __name__ == "__main__":
    main(parse_config(CONFIG, {"export": ExportConfig}))
