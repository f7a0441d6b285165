"""The list of faults, the tests that show them, and its table agree."""

import json
import re

from tests.reliability import record

DOCUMENT = (record.ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_fault_of_the_document_has_a_test_and_every_mark_a_line():
    listed = re.findall(r"^\| ([FD]\d+) \|", DOCUMENT, re.MULTILINE)
    assert len(listed) == len(set(listed)) > 40
    marked = set()
    for path in (record.ROOT / "tests").rglob("test_*.py"):
        for arguments in re.findall(r"mark\.fault\(([^)]*)\)", path.read_text(encoding="utf-8")):
            marked |= set(re.findall(r'"(\w+)"', arguments))
    assert set(listed) == marked


def test_the_table_of_the_document_is_that_of_the_record():
    shown = DOCUMENT.split(record.BEGIN)[1].split(record.END)[0]
    found = json.loads(record.RECORD.read_text()), json.loads(record.COST.read_text())
    assert shown == record.table(*found)
    assert not [code for code, counts in found[0]["faults"].items() if "failed" in counts]
