"""Predict a folder of images and videos with the trained models → submission.csv and scores.csv.

    python make_submission.py --input data/test_images --models-dir models --output submission.csv

The members' maps are averaged by their weights, joined with those of the small-forgery specialist and the copy-move
evidence, and a calibrated probability decides whether the image is forged before any region is drawn. `python
fit_ensemble.py` fits weights and decision to the data; without its models/ensemble.json the original recipe's weights
are used. If no network is trained, --allow-missing lets copy-move evidence decide alone.

If there is a detector of generated images, models/spai*_best.pth (script 7), scores.csv has its probability and verdict
for each image: "generated" is another question than "locally edited". The fitted decision may use a high probability as
evidence of a forgery, never a low one as evidence against.

Videos are scored if there is a detector of deepfakes, models/deepfake_video*_best.pth (script 8): scores.csv has a row
of the kind `video` with probability and verdict for each; the submission lists images only. `python explain.py
clip.mp4` shows where and when.

Images may have any size and form (data/README.md says what is read how); regions have each image's own resolution. Rows
are in the order of sample_submission.csv, if there is one. Memory does not grow with the number of images. An image
that can't be read has a row too, and its error in scores.csv; files of other kinds are counted in a line.

Millions of images are given as a manifest or webdataset shards, and may be shared among workers:

    python make_submission.py --input files.parquet --output out/submission.csv --num-shards 8 --shard-index 3
    torchrun --nproc-per-node 8 make_submission.py --input "shards-{000..999}.tar"

Rows are written in parts beside the output, and merged by the last worker to finish. Run again after an interruption,
the same command does the parts that are missing or whose files have changed. Each worker checks the files of its own
parts only: after files have changed, restart all workers before one of them finishes.
"""

from common.process import prepare

prepare()  # before torch is imported

from collections.abc import Sequence
from contextlib import closing

import tyro
from tqdm import tqdm

from common.errors import UserError
from common.locks import hold, locks_end
from common.submission.config import SubmissionConfig, exit_status, summary
from common.submission.parts import Parts
from common.submission.sources import Part


@locks_end()
def main(config: SubmissionConfig) -> None:
    """Predict the files of this process's parts; the process that finishes last writes the tables.

    Raises:
        UserError: --num-shards under a launcher, another run that writes the same output, or an error of the input or
            the models.
    """
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.devices import main_process_prints, process_state
    from common.submission.inputs import hold_outputs, open_parts

    state = process_state()
    index, count = state.process_index, state.num_processes
    if config.num_shards is not None and config.shard_index is not None:
        if count > 1:
            raise UserError("--num-shards is for workers that are started one by one, not by a launcher.")
        index, count = config.shard_index, config.num_shards
    with main_process_prints():
        if config.num_shards is None:
            hold_outputs(config)
        parts = open_parts(config)
        if config.num_shards is not None:  # shared by the workers of one submission
            hold_outputs(config, together=f"{parts.run} {count}")
            hold(config.output.with_name(f"{config.output.name}.shard_{index}"))
        own = parts.parts[index::count]
        try:
            predict_parts(config, parts, own, quiet=not state.is_main_process)
        except KeyboardInterrupt:
            kept = f"the parts in {parts.folder} are kept; the same command continues" if parts.folder.exists() else ""
            raise KeyboardInterrupt(kept) from None
    counts = parts.merge()
    if counts is not None:
        print(summary(config, counts))
        if status := exit_status(counts):
            raise SystemExit(status)
    elif state.is_main_process:
        print(unfinished(parts, index, count, launched=config.num_shards is None))


def predict_parts(config: SubmissionConfig, parts: Parts, own: Sequence[Part], *, quiet: bool) -> None:
    """Predict and write those of this process's parts that are not done, with a progress bar unless `quiet`."""
    from common.devices import process_state
    from common.submission.predictor import load_predictor, write_part

    todo = parts.remaining(own)
    process_state().wait_for_everyone()  # so that none merges before all have checked for changed files
    if not todo:
        return
    n_images = sum(part.count for part in parts.parts if part.kind != "video")
    predictor = load_predictor(config, {part.kind for part in todo}, n_images)
    total, left = (sum(part.count for part in some) for some in (own, todo))
    with tqdm(total=total, initial=total - left, unit="file", disable=quiet or None) as bar:
        for part in todo:
            with closing(write_part(predictor, parts, part)) as rows:  # so that an interrupt leaves no half part
                for row in rows:
                    if "error" in row.scores:
                        bar.write(f"{row.case_id}: {row.scores['error']}")
                    bar.update()


def unfinished(parts: Parts, index: int, count: int, *, launched: bool) -> str:
    """The final message of a process that is not the last; `launched` with the others, or started alone."""
    missing = parts.missing() if parts.folder.exists() else []
    if not missing:
        return f"shard {index} of {count} is done; another process merges"
    shards = sorted({part.number % count for part in missing})
    remedy = "run the same command again" if launched else "start it again with its own --shard-index"
    return (
        f"shard {index} of {count} is done; {len(missing)} of {len(parts.parts)} parts are missing, those of "
        f"{'shard' if len(shards) == 1 else 'shards'} {', '.join(map(str, shards))}. The last process to finish merges "
        f"all. If one was lost, {remedy}."
    )


if __name__ == "__main__":
    main(tyro.cli(SubmissionConfig, description=__doc__))
