"""Every other transformer class of diffusers: one adapter, and a table of what each class is called with."""
