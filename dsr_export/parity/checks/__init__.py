"""The comparisons of a candidate's outputs with the reference's, and the table of them."""
