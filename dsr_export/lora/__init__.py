"""LoRA adapters on disk, merged into a diffusers model before it is traced.

W + scale * alpha / rank * up @ down (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021), as PEFT's
`merge_and_unload` and diffusers' `fuse_lora` make it.
"""
