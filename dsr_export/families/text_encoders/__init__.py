"""Text encoders of transformers: the ids of a prompt's tokens -> what a denoiser is conditioned on."""
