"""The table of the doctor's findings is that of the code."""

from __future__ import annotations

from dsqlcdc.doctor.finding import KINDS
from dsqlcdc.doctor.fixes import STEPS

from .reading import REFERENCE, ROOT, named, rows


def test_the_table_of_findings_is_the_codes_own() -> None:
    told = [(*named(code), severity, meaning, fix) for code, severity, meaning, fix in rows(REFERENCE, "Findings of the doctor")]
    assert told == [(code, severity, meaning, "yes" if code in STEPS else "no") for code, (severity, meaning) in KINDS.items()]


def test_every_kind_of_finding_is_made_somewhere() -> None:
    folder = [*(ROOT / "dsqlcdc" / "doctor").glob("*.py"), ROOT / "dsqlcdc" / "hosts" / "doctor.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in folder if path.name not in ("finding.py", "fixes.py"))
    assert [code for code in KINDS if f'"{code}"' not in text] == []
