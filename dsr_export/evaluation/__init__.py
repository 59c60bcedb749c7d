"""How good the pictures of an exported model are: figures against data, and against a reference's pictures."""
