"""The bundle: a directory that ships. Written atomically, verified before use."""
