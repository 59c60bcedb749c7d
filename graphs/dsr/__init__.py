"""The symbolic `dsr` domain: its schemas, what its ops mean, and their static form."""
