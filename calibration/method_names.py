"""The names of the calibration methods, the default first: a command line needs them, but no numpy."""

METHOD_NAMES = ("outlier-aware", "minmax", "percentile", "entropy", "mse")
