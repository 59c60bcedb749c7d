"""Every other transformer class of diffusers: one adapter, told by a table of recipes what each class is called with."""
