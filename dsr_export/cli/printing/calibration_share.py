"""What `build --calibration-only` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsr_export.cli.process.streams import answer, answer_json

if TYPE_CHECKING:
    from dsr_export.config import ExportConfig
    from dsr_export.progress import Reporter


def show_share(config: ExportConfig, *, as_json: bool, shown: Reporter) -> None:
    """Measures a share, and says where it is and what comes next."""
    from dsr_export.pipeline import calibrate_share

    place, share = calibrate_share(config, reporter=shown), config.int8.share
    assert share is not None  # else there is nothing to call this for
    said = f"{share.index}/{share.of}"
    if as_json:
        answer_json({"shard": said, "measured": True, "path": str(place)})
        return
    when = "" if share.of == 1 else "when all are, "
    answer(f"shard {said} is measured in {place}; {when}build with --calibration-parts {place.parent}")
