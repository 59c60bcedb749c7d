"""Options that several commands have, or many of one kind."""
