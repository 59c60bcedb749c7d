"""What a report is written as: `report.json`, `junit.xml` and `report.html`, all made of the one report."""
