"""One table of what each class takes, by name: shapes and meanings, in the words that they share."""
