"""`fit`: trains the registers and gates that a `dsr.toml` asks for, on top of a model that stays as it is."""
