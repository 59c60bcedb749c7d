"""The report as files: one source, three forms."""

from __future__ import annotations

import json

from dsr_export.reports.junit import junit
from dsr_export.reports.page import report_page
from dsr_export.reports.plain_json import plain
from dsr_export.reports.record import Report

REPORT, PAGE, JUNIT = "report.json", "report.html", "junit.xml"


def report_files(report: Report) -> dict[str, bytes]:
    """Name in the bundle -> content. Figures that are not finite are null, in every form."""
    strict = plain(report.as_dict())
    text, drawn = json.dumps(strict, indent=1, sort_keys=True, allow_nan=False), Report.read(strict)
    return {REPORT: text.encode(), PAGE: report_page(drawn).encode(), JUNIT: junit(drawn).encode()}
