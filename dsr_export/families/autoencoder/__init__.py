"""AutoencoderRAE folders of diffusers: an encoder and a decoder, each a model of its own."""
