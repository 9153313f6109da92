"""The rows of a submission and their order."""

from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from common.tables import read_table


def submission_rows(
    case_ids: Collection[str], sample_submission: Path | None, input_path: Path, nothing: str = ""
) -> list[str]:
    """Case ids in the order that the submission must have: the scorer aligns rows by position.

    Args:
        case_ids: Of the images that were found.
        sample_submission: The file that gives the order; None looks for `sample_submission.csv` in the input folder
            and, for `test_images`, beside it. Without one, or where it names none of the images, the order of
            `case_ids` stays.
        input_path: The input folder or image.
        nothing: Why there are no images, where that is known.

    Raises:
        UserError: No images; the named file is missing, has no case_id column, lists one twice, or names none of them.
    """
    if not case_ids:
        raise UserError(f"{input_path} holds no images (PNG, JPEG, TIFF, BMP, WEBP){nothing and f': {nothing}'}.")
    named = sample_submission is not None
    if not named:
        sample_submission = find_sample(input_path)
        if sample_submission is None:
            return list(case_ids)
    elif not sample_submission.is_file():
        raise UserError(f"--sample-submission {sample_submission}: no such file.")
    ids = read_table(sample_submission, ["case_id"])["case_id"]
    rows, foreign = ids.tolist(), not set(ids) & set(case_ids)
    if foreign and not named:
        print(f"{sample_submission} names none of these images and is left aside")
        return list(case_ids)
    twice = ids[ids.duplicated()].tolist()
    if twice:
        raise UserError(f"{sample_submission} lists {', '.join(twice[:5])} more than once.")
    if foreign:
        raise UserError(
            f"none of the {len(rows)} case ids in {sample_submission} is an image in {input_path}. "
            "Name the file that belongs to these images with --sample-submission."
        )
    surplus = len(set(case_ids) - set(rows))
    if surplus:
        print(f"{surplus} images in {input_path} are not in {sample_submission} and are left out")
    return rows


def find_sample(input_path: Path) -> Path | None:
    """The sample_submission.csv of an input folder, which lies in it or, for `test_images`, beside it."""
    folders = [input_path, *([input_path.parent] if input_path.name == "test_images" else [])]
    found = (folder / "sample_submission.csv" for folder in folders if input_path.is_dir())
    return next((path for path in found if path.is_file()), None)
