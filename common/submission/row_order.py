"""The order of a submission's rows, from sample_submission.csv."""

from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from common.files import spelled_out
from common.tables import read_table


def find_sample(input_path: Path) -> Path | None:
    """The sample_submission.csv of an input folder: in it or, for a folder `test_images`, beside it."""
    named = spelled_out(input_path)
    folders = [input_path, *([named.parent] if named.name == "test_images" else [])]
    found = (folder / "sample_submission.csv" for folder in folders if input_path.is_dir())
    return next((path for path in found if path.is_file()), None)


def sample_order(case_ids: Collection[str], sample: Path, input_path: Path, *, required: bool) -> list[str]:
    """The case ids of a sample submission: the scorer aligns rows by position.

    Args:
        case_ids: Of the images in the input.
        sample: A table with the column case_id. Images that it does not list are left out, with a printed note.
        input_path: The input, for messages.
        required: Whether the sample must be of these images; otherwise, if it lists none of them, the order of
            `case_ids` stays, with a printed note.

    Raises:
        UserError: There is no such file, or it has no column case_id, lists an id twice, or lists none of the images.
    """
    if not sample.is_file():
        raise UserError(f"--sample-submission {sample}: no such file.")
    ids = read_table(sample, ["case_id"])["case_id"]
    rows, surplus = ids.tolist(), len(set(case_ids) - set(ids))
    if surplus == len(case_ids) and not required:
        print(f"{sample} lists none of these images and is ignored")
        return list(case_ids)
    if twice := ids[ids.duplicated()].tolist():
        raise UserError(f"{sample} lists {', '.join(twice[:5])} more than once.")
    if surplus == len(case_ids):
        raise UserError(
            f"none of the {len(rows)} case ids in {sample} is an image in {input_path}. Name the file that belongs to "
            "these images with --sample-submission."
        )
    if surplus:
        print(f"{surplus} images in {input_path} are not in {sample} and are left out")
    return rows
