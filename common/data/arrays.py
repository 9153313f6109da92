"""Reading of arrays from .npy files, whose header may claim anything."""

import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from common.data.limits import TooLarge, check_bytes
from common.errors import UserError
from common.files import check_regular


def load_array(path: Path, what: str) -> np.ndarray:
    """Load the array of a .npy file; none that holds Python objects.

    Args:
        path: The file.
        what: What it is to be read as, for messages: `a mask`.

    Raises:
        UserError: It is missing, broken, no such file, or larger than `common.data.limits` allow.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise UserError(f"{path} is an archive of arrays (.npz). Save the array alone, with numpy.save.")
            file.seek(0)
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which could run code")
            needed, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
            if min(shape, default=0) < 0 or there < needed:
                raise ValueError(f"its header asks for {needed:,} bytes, and {there:,} are there")
            check_bytes(needed)
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
    except UserError:
        raise
    except TooLarge as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # a broken header raises anything
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as {what} ({reason}). Replace or remove the file.") from error
