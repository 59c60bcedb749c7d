"""A model as a diagnosis sees it: its blocks, its tokens, their norms."""
