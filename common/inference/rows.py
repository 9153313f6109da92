"""The rows of a submission and their order."""

from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from common.tables import read_table


def submission_rows(case_ids: Collection[str], sample_submission: Path | None, input_path: Path) -> list[str]:
    """Case ids in the order that the submission must have: the scorer aligns rows by position.

    Args:
        case_ids: Of the images that were found.
        sample_submission: The file that gives the order; None looks for `sample_submission.csv` in the input folder
            and, for `test_images`, beside it. Without one, or where it names none of the images, the order of
            `case_ids` stays.
        input_path: The input folder or image.

    Raises:
        UserError: No images; the named file is missing, has no case_id column, lists one twice, or names none of them.
    """
    if not case_ids:
        raise UserError(f"{input_path} holds no images (PNG, JPEG, TIFF, BMP, WEBP).")
    if sample_submission is None:
        if input_path.is_file():
            return list(case_ids)
        folders = [input_path, *([input_path.parent] if input_path.name == "test_images" else [])]
        nearby = [folder / "sample_submission.csv" for folder in folders]
        sample_submission = next((path for path in nearby if path.is_file()), None)
        if sample_submission is None:
            return list(case_ids)
        if not set(read_table(sample_submission, ["case_id"])["case_id"]) & set(case_ids):
            print(f"{sample_submission} names none of these images and is left aside")
            return list(case_ids)
    if not sample_submission.is_file():
        raise UserError(f"--sample-submission {sample_submission}: no such file.")
    table = read_table(sample_submission, ["case_id"])
    rows = table["case_id"].tolist()
    twice = table["case_id"][table["case_id"].duplicated()].tolist()
    if twice:
        raise UserError(f"{sample_submission} lists {', '.join(twice[:5])} more than once.")
    if not set(rows) & set(case_ids):
        raise UserError(
            f"none of the {len(rows)} case ids in {sample_submission} is an image in {input_path}. "
            "Name the file that belongs to these images with --sample-submission."
        )
    surplus = len(set(case_ids) - set(rows))
    if surplus:
        print(f"{surplus} images in {input_path} are not in {sample_submission} and are left out")
    return rows
