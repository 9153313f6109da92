"""Fit the ensemble's settings: members' weights, pixel threshold, minimum area, image-level decision.

    python fit_ensemble.py --data-dir data --models-dir models
    python fit_ensemble.py --data-dir data --models-dir models --tta flips

Every member predicts the images of the fold that it was not trained on: of models/ and, if they exist, of each
models/fold_*/ (`make folds`). The settings are fitted on these out-of-fold maps and on copy-move evidence. Nested,
grouped cross-validation measures the fit, printed as a table: each member alone, the ensemble step by step, and without
the evidence; it takes forged and authentic images of three sources each. The simplest settings stay unless more are
better there: one feature of networks and of copies in the decision, and the original recipe's hand-set weights. How far
the best row is above each other is printed with intervals. The best settings are written to models/ensemble.json, which
make_submission.py reads.

With a detector of generated images, models/spai*_best.pth (script 7), the decision may read its probability too, if a
high one is a sign of forgery in these data. It must have been trained on other images than these.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from joblib import cpu_count
from tqdm import tqdm

from common.ensemble.choices import COMPLETE, MODE_THRESHOLDS, TTA, Backend
from common.errors import UserError
from common.files import check_writable, write_json
from common.locks import hold, locks_end
from common.sizes import SIZES


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Models and data to fit on, and the variants to try."""

    data_dir: Path = Path("data")
    """The data folder that the members were trained on."""
    models_dir: Path = Path("models")
    """Folder of the checkpoints, to which ensemble.json is written."""
    tta: TTA = "none"
    """Views of each image to try besides the image alone; used only if they are better."""
    folds: int = 5
    """Number of folds of the nested cross-validation, at least 2."""
    seed: int = 0
    """Random seed of these folds."""
    allow_missing: bool = False
    """Fit without the members whose checkpoint is missing."""
    json: Path | None = None
    """JSON file to which the table is written too."""
    skip_bad_files: bool = False
    """Continue without the files that can't be read, naming each, as in the training."""
    copy_move: bool = True
    """Make copy-move evidence one of the members."""
    generated: bool = True
    """Use the detector of generated images, models/spai*_best.pth, if there is one."""
    backend: Backend = "auto"
    """What runs the networks. auto is torch on a GPU; on a CPU it is ONNX Runtime, if it is installed and the number of
    images pays for exporting the networks."""
    workers: int | None = None
    """Number of processes for copy-move detection, at least 1; by default one for each core."""

    def __post_init__(self) -> None:
        """Refuse a single fold, and no worker."""
        if self.folds < 2:
            raise UserError(f"--folds is {self.folds}; it must be 2 or more.")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers is {self.workers}; it must be 1 or more.")


@locks_end()
def main(config: FitConfig) -> None:
    """Predict, evaluate, choose, fit, write."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.data.samples import load_samples
    from common.ensemble.fitting import fit_settings
    from common.ensemble.members import SETTINGS_FILE, identities
    from common.ensemble.out_of_fold import out_of_fold
    from common.ensemble.settings import Settings, WeightSource
    from common.ensemble.variants import Variant, choose, gains, nested, summary, variants

    for path in (config.models_dir / SETTINGS_FILE, config.json):
        if path:
            check_writable(path)
    hold(config.models_dir / SETTINGS_FILE)
    samples = load_samples(config.data_dir, skip_bad_files=config.skip_bad_files)
    views: tuple[TTA, ...] = ("none",) if config.tta == "none" else ("none", config.tta)
    oofs = {
        tta: out_of_fold(
            config.models_dir,
            samples,
            tta=tta,
            allow_missing=config.allow_missing,
            copy_move=config.copy_move,
            workers=config.workers or cpu_count(),
            generated=config.generated,
            backend=config.backend,
        )
        for tta in views
    }
    plain = oofs["none"]
    print(f"{len(plain.truths)} images out of fold, {plain.forged.sum()} of them forged")

    tried: dict[str, tuple[TTA, Variant]] = {variant.name: ("none", variant) for variant in variants(plain)}
    if config.tta != "none":  # for single members too: the gain of the views must not count as the ensemble's
        again = [variant for name, (_, variant) in tried.items() if name in (*plain.names, *COMPLETE)]
        tried |= {f"{variant.name}, {config.tta}": (config.tta, variant) for variant in again}
    outcomes = {
        name: nested(oofs[tta], variant, config.folds, config.seed)
        for name, (tta, variant) in tqdm(tried.items(), "nested", leave=False, disable=None)
    }
    figures = {name: summary(outcome) for name, outcome in outcomes.items()}
    print(table(figures))
    if config.json is not None:
        write_json(figures, config.json)

    best = choose(figures)
    print(f"\n'{best}' above each other row (95 % of 1,000 bootstraps of the groups):")
    print(gain_table(gains(outcomes, best, plain.groups)))
    tta, variant = tried[best]
    modes = {f"{mode} ({threshold:.2f})": summary(outcomes[best], mode) for mode, threshold in MODE_THRESHOLDS.items()}
    print(f"\n'{best}' in each mode:\n{table(modes, sizes=False)}")
    sources: tuple[WeightSource, ...] = ("original", "fitted")
    fits = {
        source: fit_settings(oofs[tta], weights=source, features=variant.features, seed=config.seed)
        for source in sources
    }
    weights = pd.DataFrame({f"{source} weights": fitted.weights for source, fitted in fits.items()})
    print(f"\n{weights.to_string(float_format='{:.2f}'.format)}\n")
    chosen = fits[variant.weights]
    assert chosen.decision is not None, "it is fitted unless no feature may be read"
    reads = chosen.decision.reads_generated
    if plain.generated is not None and not reads:
        print("the decision does not read the detector of generated images: it is no sign of forgery in these data")
    settings = Settings(
        weights=chosen.weights,
        pixel_threshold=chosen.pixel_threshold,
        min_area_share=chosen.min_area_share,
        cleanup=chosen.cleanup,
        decision=chosen.decision,
        tta=tta,
        source=variant.weights,
        checkpoints=identities(config.models_dir, copy_move=config.copy_move, generated=reads),
        report=figures,
    )
    settings.save(config.models_dir / SETTINGS_FILE)
    print(
        f"'{best}' decides: {variant.weights} weights, views {tta}, pixel threshold {chosen.pixel_threshold:.3f}, "
        f"minimum area {chosen.min_area_share:.2%}, {chosen.cleanup} → {config.models_dir / SETTINGS_FILE}"
    )


def gain_table(above: dict[str, dict[str, tuple[float, float, float]]]) -> str:
    """Differences with their intervals, a row each."""
    rows = {
        name: {metric: f"{value:+.3f} ({low:+.3f} to {high:+.3f})" for metric, (value, low, high) in metrics.items()}
        for name, metrics in above.items()
    }
    return pd.DataFrame(rows).T.to_string()


def table(figures: dict[str, dict[str, float]], *, sizes: bool = True) -> str:
    """Summaries, a row each; with `sizes` also the pixel recall by size, and how many forged images have that size."""
    columns = {name: name for name in ("of1", "lift", "image_recall", "image_fpr", "image_auc", "pixel_f1")}
    if sizes:
        counts = next(iter(figures.values()))
        columns |= {f"pixel_recall_{size}": f"{size} ({counts[f'n_{size}']})" for size in SIZES}
    rows = pd.DataFrame(figures).T[list(columns)].rename(columns=columns)
    note = "\n(pixel F1, and recall by size, of the masks before the image is decided)" if sizes else ""
    return rows.to_string(float_format="{:.3f}".format, na_rep="–") + note


if __name__ == "__main__":
    main(tyro.cli(FitConfig, description=__doc__))
