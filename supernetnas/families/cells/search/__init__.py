"""How the alphas of cells are searched, and how a genotype is derived from them."""
