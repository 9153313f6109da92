"""Findings in words, from their rows."""

from collections.abc import Mapping

Value = str | int | float


def sentence(row: Mapping[str, Value], here: str = "", there: str = "") -> str:
    """What a finding says, such as `The lower left of panel C, mirrored, is shown again in the upper right of panel F`.

    Args:
        row: Of findings.csv, with what report.html says besides.
        here: What is added to the first place: the name of its image, where two are compared.
        there: The same of the second one.
    """
    one = f"{row['place']} {row['part']}{here}"
    if row["relation"] == "altered":
        return f"Networks take {one} for pasted, filled or redrawn."
    other = f"{row['place_copy']} {row['part_copy']}{there}"
    if row["relation"] == "plot":
        return _capital(f"{one} and {other} are plots that are set alike.")
    if row["relation"] == "same field":
        return _capital(f"{one} and {other} show one field.")
    if row["relation"] == "enlargement" and float(row["scale"]) < 1:
        one, other, row = other, one, {**row, "place_copy": row["place"]}
    how = "larger" if row["relation"] == "enlargement" else "again"
    changed = changes(row) if row["relation"] == "reuse" else ""
    where = "in" if str(row["place_copy"]).startswith("the") else "as"
    return _capital(f"{one} is shown {how}{f', {changed},' if changed else ''} {where} {other}.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def score_in_words(score: float) -> str:
    """A probability with two digits."""
    return "over 0.99" if score >= 0.995 else f"{score:.2f}"


def changes(row: Mapping[str, Value]) -> str:
    """How the second place is turned, scaled and mirrored against the first; empty if it is only shifted."""
    turn, scale = round(float(row.get("rotation", 0))), float(row.get("scale", 1))
    changes = [
        "mirrored left to right" * bool(row.get("mirrored", 0)),
        f"turned by {abs(turn)}° {'counter' * (turn < 0)}clockwise" * (turn != 0),
        f"{scale:.2f} times as large" * (round(scale, 2) != 1),
    ]
    return ", ".join(filter(None, changes))
