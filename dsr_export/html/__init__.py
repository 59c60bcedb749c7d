"""Self-contained HTML pages: one file, no network, no script; charts are inline SVG, pictures inline PNG."""
