"""A pipeline's own walks from its folder, nothing of which is built: its prompts, encoders, scheduler and guidance."""
