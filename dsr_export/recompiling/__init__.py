"""A new engine for a built bundle, on the machine at hand."""
