"""Vision encoders: SigLIP, DINOv2."""
