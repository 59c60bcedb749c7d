"""An evaluation as JUnit: a test case for every limit, and one for each figure that has none."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from dsr_export.evaluation.gate import Ruling
from dsr_export.evaluation.results import Evaluation
from dsr_export.evaluation.wording import line_text, ruling_text
from dsr_export.reports.junit import clean


def evaluation_junit(found: Evaluation) -> str:
    """The document."""
    limited = {ruling.limit.metric.name for ruling in found.rulings}
    free = [line for line in found.lines if line.metric.name not in limited]
    failures = sum(not ruling.passed for ruling in found.rulings)
    counts = {"tests": str(len(found.rulings) + len(free)), "failures": str(failures), "errors": "0", "time": "0"}
    root = ElementTree.Element("testsuites", {"name": "dsr-export", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "pictures", "skipped": "0", **counts})
    classname = clean(f"{found.bundle.manifest.name}.pictures")
    for ruling in found.rulings:
        _add(suite, classname, ruling)
    for line in free:
        case = ElementTree.SubElement(suite, "testcase", classname=classname, name=line.metric.name, time="0")
        ElementTree.SubElement(case, "system-out").text = clean(line_text(line))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(suite: ElementTree.Element, classname: str, ruling: Ruling) -> None:
    said = clean(ruling_text(ruling))
    case = ElementTree.SubElement(suite, "testcase", classname=classname, name=clean(ruling.limit.said), time="0")
    if ruling.passed:
        ElementTree.SubElement(case, "system-out").text = said
    else:
        failure = ElementTree.SubElement(case, "failure", message=said, type="OutOfLimit")
        failure.text = said
