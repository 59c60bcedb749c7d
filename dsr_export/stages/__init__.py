"""The stages of a build, one per file: a frozen value whose fields are its key, its work, and its typed result."""
