"""What an audit says where the source of advisories answers, answers nothing, or is not there."""

import json
from types import SimpleNamespace

from benchmarks import audit

SOUND = {"name": "numpy", "version": "2.1", "vulns": []}
HOLE = {"name": "pillow", "version": "9.0", "vulns": [{"id": "CVE-1", "fix_versions": ["9.0.1"], "aliases": []}]}
UNKNOWN = {"name": "torch", "skip_reason": "not found"}


def answering(monkeypatch, answers: dict[str, str]) -> list[str]:
    asked = []

    def run(command, **_):
        asked.append(command[command.index("-s") + 1])
        return SimpleNamespace(stdout=answers.get(asked[-1], ""), returncode=1)

    monkeypatch.setattr(audit.subprocess, "run", run)
    return asked


def test_holes_are_listed(monkeypatch, capsys):
    answering(monkeypatch, {"pypi": json.dumps({"dependencies": [SOUND, HOLE, UNKNOWN]})})
    assert audit.main("pip-audit") == 1
    assert "pillow 9.0: CVE-1, fixed in 9.0.1 (2 packages" in capsys.readouterr().out


def test_no_holes(monkeypatch, capsys):
    asked = answering(monkeypatch, {"osv": json.dumps({"dependencies": [SOUND]})})
    assert audit.main("pip-audit") == 0
    assert asked == ["pypi", "osv"] and "no known holes (1 packages" in capsys.readouterr().out


def test_an_index_that_knows_nothing_is_no_answer(monkeypatch, capsys):
    answering(monkeypatch, {"pypi": json.dumps({"dependencies": [UNKNOWN]})})
    assert audit.main("pip-audit") == 0
    assert capsys.readouterr().out.startswith("skipped: no source of advisories")
