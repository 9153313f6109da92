"""Matching of a user's regular expressions, within seconds."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from common.errors import UserError

MOST_SECONDS = 10
"""Seconds that the search for a pattern in all texts may take; one more is allowed for each 50,000 texts."""
_SEARCH = """
import json, re, sys
pattern, texts = json.load(sys.stdin)
for text in texts:
    match = re.search(pattern, text)
    print(json.dumps(match and [match.group(), *match.groups()]), flush=True)
"""


def checked(pattern: str, name: str) -> re.Pattern[str]:
    """The pattern, compiled; `name` is what messages call it, such as `group pattern`.

    Raises:
        UserError: It is no regular expression.
    """
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"The {name} {pattern!r} is no regular expression ({error}).") from error


def search_all(pattern: str, texts: Sequence[str], name: str) -> list[list[str | None] | None]:
    """The first match of a pattern in each text: the whole match, and then its groups; None where there is no match.

    Raises:
        UserError: It is no regular expression, or takes too long.
    """
    checked(pattern, name)
    # In a process of its own, which can be stopped: a pattern that repeats what is repeated may take years on a text.
    command, content = [sys.executable, "-I", "-S", "-c", _SEARCH], json.dumps([pattern, texts]).encode()
    seconds = MOST_SECONDS + len(texts) / 50_000
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired as expired:
        slow = texts[min((expired.stdout or b"").count(b"\n"), len(texts) - 1)]
        raise UserError(
            f"The {name} {pattern!r} takes more than {seconds:.0f} s, at {slow!r}. Write it without repetitions of "
            "repetitions, such as (a+)+."
        ) from expired
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").splitlines() or [""])[-1]
        raise UserError(f"The {name} {pattern!r} can't be matched ({reason}). Write another.") from error
    return [json.loads(line) for line in done.stdout.splitlines()]
