"""Checkpoints and a folder of images and videos → submission.csv, one row an image, and scores.csv beside it.

    python make_submission.py --input data/test_images --models-dir models --output submission.csv

The members' maps are averaged by their weights, joined with the small-forgery specialist's and with copy-move evidence,
and decided: the calibrated probability that the image is forged must reach the mode's threshold before any region is
drawn. `python fit_ensemble.py` fits weights and decision to the data; without its models/ensemble.json the seed's
weights count. With no network trained at all, --allow-missing lets copy-move evidence decide alone.

Where there is a detector of generated images, models/spai*_best.pth (script 7), scores.csv has its probability and its
verdict for each image: "generated" is another question than "locally edited". What fit_ensemble.py fitted with it lets
a high probability speak for a forgery; a low one never speaks against one.

Videos are scored after the images where there is a detector of deepfakes, models/deepfake_video*_best.pth (script 8):
scores.csv has a row for each, of the kind `video`, with the probability that its face is fake and the verdict. The
submission lists images only. `python script_8_deepfake_video.py --predict` shows where and when.

Images of any size, as PNG, JPEG, TIFF, BMP or WEBP; regions are drawn at each image's own resolution. Rows follow
sample_submission.csv where there is one. Images are read, decided and written one batch after the other: memory does
not grow with their number. An image that can't be read has its row all the same, and its error in scores.csv.

Millions of images come as a manifest or as webdataset shards too, and may be shared out:

    python make_submission.py --input files.parquet --output out/submission.csv --num-shards 8 --shard-index 3
    torchrun --nproc-per-node 8 make_submission.py --input "shards-{000..999}.tar"

Rows are written in parts, beside the output, until all are there and are merged. A run that was interrupted goes on
with the parts that are missing, or whose files have changed, when it is started again; so does the shard of a worker
that was lost. Each worker looks at the files of its own parts alone: when some were changed, start all of them again
before one of them has ended.
"""

from common.process import prepare

prepare()  # before torch is imported

from collections.abc import Sequence
from contextlib import closing

import tyro
from tqdm import tqdm

from common.devices import main_process_prints, process_state
from common.errors import UserError
from common.submission.config import SubmissionConfig, open_parts, summary
from common.submission.parts import Parts
from common.submission.predictor import decide_part, load_decider
from common.submission.sources import Part


def main(config: SubmissionConfig) -> None:
    """Decide every image and score every video of this process's parts; the process that ends last writes the tables.

    Raises:
        UserError: --num-shards under a launcher, or whatever the parts and the models say.
    """
    state = process_state()
    index, count = state.process_index, state.num_processes
    if config.num_shards is not None:
        if count > 1:
            raise UserError(
                "--num-shards is for workers that are started one by one; a launcher's share by their rank."
            )
        index, count = config.shard_index, config.num_shards
    with main_process_prints():
        parts = open_parts(config)
        own = parts.parts[index::count]
        try:
            decide(config, parts, own, quiet=not state.is_main_process)
        except KeyboardInterrupt:
            kept = (
                f"the parts in {parts.folder} are kept, and the same command goes on" if parts.folder.exists() else ""
            )
            raise KeyboardInterrupt(kept) from None
    counts = parts.merge()
    if counts is not None:
        print(summary(config, counts))
    elif state.is_main_process:
        print(unfinished(parts, index, count, launched=config.num_shards is None))


def decide(config: SubmissionConfig, parts: Parts, own: Sequence[Part], quiet: bool) -> None:
    """Decide and write those parts of its own that are not done, with a progress bar unless `quiet`."""
    todo = parts.remaining(own)
    process_state().wait_for_everyone()  # whose files have changed is known before one of them merges
    if not todo:
        return
    n_images = sum(part.count for part in parts.parts if part.kind != "video")
    decider = load_decider(config, {part.kind for part in todo}, n_images)
    total, left = (sum(part.count for part in some) for some in (own, todo))
    with tqdm(total=total, initial=total - left, unit="file", disable=quiet or None) as bar:
        for part in todo:
            with closing(decide_part(decider, parts, part)) as rows:  # an interrupt leaves no half a part
                for row in rows:
                    if "error" in row.scores:
                        bar.write(f"{row.case_id}: {row.scores['error']}")
                    bar.update()


def unfinished(parts: Parts, index: int, count: int, launched: bool) -> str:
    """What this process says when it is not the last, `launched` with the others or started alone."""
    missing = parts.missing() if parts.folder.exists() else []
    if not missing:
        return f"shard {index} of {count} is done; another process merges"
    shards = sorted({part.number % count for part in missing})
    lost = "the same command goes on" if launched else "start it again with its own --shard-index"
    return (
        f"shard {index} of {count} is done; {len(missing)} of {len(parts.parts)} parts are missing, those of "
        f"{'shard' if len(shards) == 1 else 'shards'} {', '.join(map(str, shards))}. The last one to end merges all. "
        f"If one was lost, {lost}."
    )


if __name__ == "__main__":
    main(tyro.cli(SubmissionConfig, description=__doc__))
