"""Tests of `dsr_export/program_archive`."""
