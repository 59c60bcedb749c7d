"""Site by site: where inside the model a candidate leaves the reference."""
