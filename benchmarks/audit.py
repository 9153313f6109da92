"""Known vulnerabilities of the pinned packages, as pip-audit lists them; a line that says so where it could not ask.

    python -m benchmarks.audit .venv/audit/bin/pip-audit

An index without advisories answers that it does not know a package, which is no answer: it counts as not asked.
"""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"
SERVICES = ("pypi", "osv")


def ask(program: str, service: str) -> list[dict] | None:
    """What a source of advisories says of each package; None if it can't be reached."""
    flags = ["--no-deps", "--disable-pip", "-f", "json", "--progress-spinner", "off"]
    command = [program, "-r", str(LOCK), "-s", service, *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    try:
        return json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None


def summary(packages: list[dict] | None) -> tuple[int, list[str]]:
    """How many packages the source knows, and a line for each vulnerability."""
    known = [package for package in packages or [] if "skip_reason" not in package]
    holes = [
        f"{package['name']} {package['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'none'}"
        for package in known
        for hole in package["vulns"]
    ]
    return len(known), holes


def main(program: str) -> int:
    """Ask the first source that answers; returns the exit status."""
    for service in SERVICES:
        known, holes = summary(ask(program, service))
        if known:
            print("\n".join(holes) or "no known holes", f"({known} packages of requirements.lock, asked {service})")
            return bool(holes)
    print(f"skipped: no source of advisories ({', '.join(SERVICES)}) can be reached; the packages were not checked")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
