"""Networks whose features the figures are made of: from local files, or packaged. Nothing is downloaded."""
