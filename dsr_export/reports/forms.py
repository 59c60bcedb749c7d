"""The report as files: one source, three forms."""

from __future__ import annotations

import json

from dsr_export.errors import ExportError
from dsr_export.reports.junit import junit
from dsr_export.reports.page import report_page
from dsr_export.reports.plain_json import plain
from dsr_export.reports.wording import Row

REPORT, PAGE, JUNIT = "report.json", "report.html", "junit.xml"


def report_files(report: Row) -> dict[str, bytes]:
    """Name in the bundle -> content. Figures that are not finite are null, in every form."""
    strict = plain(report)
    text = json.dumps(strict, indent=1, sort_keys=True, allow_nan=False)
    return {REPORT: text.encode(), PAGE: report_page(strict).encode(), JUNIT: junit(strict).encode()}


def carried_page(report: Row) -> str:
    """The page of a verification, parts of which come from the bundle's own report.

    Raises:
        ExportError: that report has another form than this version writes.
    """
    try:
        return report_page(report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"the report.json of {report['bundle']} can't be drawn: {type(error).__name__} {error}",
            hint="it was written by another version; build the bundle again, or leave out --html",
        ) from error
