"""From prompts to token ids, with the files of a pipeline's tokenizers and the package `tokenizers` alone."""

from __future__ import annotations

from dsr_export.prompts.tokenizer import PromptTokenizer, Tokens, check_ids

__all__ = ["PromptTokenizer", "Tokens", "check_ids"]
