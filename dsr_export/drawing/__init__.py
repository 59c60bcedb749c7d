"""Samples from a bundle: its sampler, the bundles around it, the decoder."""
