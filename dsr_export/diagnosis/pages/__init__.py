"""A diagnosis as HTML pages."""
