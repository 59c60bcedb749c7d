"""`python -m dsr_export` is `dsr-export`."""

from dsr_export.cli import main

main()
