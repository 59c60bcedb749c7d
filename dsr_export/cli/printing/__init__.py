"""What commands print: reports, comparisons site by site, errors."""
