"""Pictures in and out: files, preparation for encoders, grids."""
