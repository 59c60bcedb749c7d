"""A program of one row, made one of any number of rows: for code that counts its batch in Python."""
