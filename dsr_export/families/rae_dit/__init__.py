"""RAE LightningDiT, with and without a wide head."""
